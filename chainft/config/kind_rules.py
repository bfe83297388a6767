"""Rules over stages that are modules of plug-ins (`kind`): where they have no place, and what they do not have."""

from __future__ import annotations

from collections.abc import Iterator

from chainft.config.no_effect import no_effect
from chainft.config.run import RunConfig
from chainft.errors import Problem
from chainft.registry import find

WRITING = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""Heads that write text: their last layer gives a score for each token of the vocabulary, and is the word embeddings."""


def modules_have_a_model_before_them(config: RunConfig) -> Iterator[Problem]:
    chain = config.chain
    for name in _modules(config):
        if chain.order and name == chain.order[0]:
            yield _refused(name, f"it reads hidden states, and {name!r} is the first stage", "put a model before it")
        if chain.stages[name].model is not None:
            because = f"the stage has a model too, {chain.stages[name].model!r}"
            yield _refused(name, because, "make them two stages, the module behind the model")


def modules_have_what_is_set(config: RunConfig) -> Iterator[Problem]:
    """What only models have."""
    for name in _modules(config):
        stage = config.chain.stages[name]
        if stage.residual:
            because = "a module has no embeddings of its own"
            yield no_effect(f"chain.stages.{name}.residual", True, because)
        if stage.from_ is not None:
            message = f"stage {name!r} is a module, whose weights start at random"
            help = (
                "a whole run is gone on with by resume=true, or trained further by model=RUN/model without the chain"
            )
            yield Problem("unsupported", message, key=f"chain.stages.{name}.from", help=help)


def modules_serve_the_task(config: RunConfig) -> Iterator[Problem]:
    names = list(_modules(config))
    if names and find("task", config.task.name, key="task.name").auto_class in WRITING:
        because = f"task {config.task.name!r} writes, and modules may read what is to be written"
        yield _refused(names[0], because, "take a chain of models alone")


def modules_are_not_sharded(config: RunConfig) -> Iterator[Problem]:
    names = list(_modules(config))
    if names and config.launch.fsdp:
        because = "launch.fsdp = true would cut parameters of which it knows nothing"
        yield _refused(names[0], because, "share the batch by launch.num_processes alone")


def _modules(config: RunConfig) -> Iterator[str]:
    return (name for name, stage in config.chain.stages.items() if stage.kind is not None)


def _refused(stage: str, because: str, help: str) -> Problem:
    kind = f"chain.stages.{stage}.kind"
    return Problem("contradiction", f"{kind} has no place here: {because}", key=kind, help=help)


KIND_RULES = (
    modules_have_a_model_before_them,
    modules_have_what_is_set,
    modules_serve_the_task,
    modules_are_not_sharded,
)

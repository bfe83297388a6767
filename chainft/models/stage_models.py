"""Which model each stage of a run is: one for all, or of linked stages one each. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from chainft.config.chain import ChainConfig
from chainft.config.run import ModelConfig, RunConfig
from chainft.errors import ChainftError


def stage_models(config: RunConfig) -> dict[str, ModelConfig]:
    """The model of each linked stage in order: its own, or the run's. Of any other chain the run's alone, under "".

    Stages that are modules of plug-ins have none.
    """
    chain = config.chain
    if not chain.is_linked:
        return {"": config.model}
    models = [name for name in chain.order if chain.stages[name].kind is None]
    return {name: _own(chain.stages[name].model, config.model) for name in models}


def _own(path: str | None, model: ModelConfig) -> ModelConfig:
    """The revision belongs to the run's model; its other settings are for all."""
    return model if path in (None, model.path) else replace(model, path=path or "", revision=None)


@contextmanager
def blaming(stage: str, chain: ChainConfig) -> Iterator[None]:
    """Name a stage's own model, not the run's, in errors about it."""
    try:
        yield
    except ChainftError as error:
        if stage and chain.stages[stage].model is not None:
            key = f"chain.stages.{stage}.model"
            error.problems = tuple(
                replace(problem, key=key) if problem.key == "model.path" else problem for problem in error.problems
            )
        raise

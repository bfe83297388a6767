"""Rules over linked models, which are stages that bring models of their own: what would be ignored is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from chainft.config.chain import ChainConfig, StageConfig
from chainft.config.no_effect import no_effect
from chainft.config.run import ModelConfig, RunConfig
from chainft.errors import Problem
from chainft.registry import find

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINK_SETTINGS = ("receive", "connector", "residual")


def linked_stages_are_whole_models(config: RunConfig) -> Iterator[Problem]:
    chain = config.chain
    if not chain.is_linked:
        return
    if chain.split is not None:
        message = f"chain.split = {chain.split} cuts one model, and stages bring models or modules of their own"
        help = "leave chain.split away, or the models"
        yield Problem("contradiction", message, key="chain.split", help=help)
    for name, stage in chain.stages.items():
        if stage.blocks is not None:
            yield _ignored(name, "blocks", stage.blocks, "a linked stage is a whole", "leave it away")
        if stage.repeat != StageConfig.repeat:
            message = f"stage {name!r} is linked to others, and only blocks of a single model can be repeated"
            help = "give one more stage that shares: share.with"
            yield Problem("unsupported", message, key=f"chain.stages.{name}.repeat", help=help)
        if stage.from_ is not None and stage.kind is None:
            message = f"stage {name!r} is a whole model, whose weights come from its model"
            help = f"chain.stages.{name}.model={stage.from_}"
            yield Problem("contradiction", message, key=f"chain.stages.{name}.from", help=help)
        if not _NAME.fullmatch(name):
            message = f"stage {name!r} names a module, so it takes letters, digits and _ only"
            yield Problem("bad-name", message, key=f"chain.stages.{name}")


def links_have_something_to_link(config: RunConfig) -> Iterator[Problem]:
    """`receive`, `connector` and `residual` are for linked stages that have one before them."""
    chain = config.chain
    for name, stage in chain.stages.items():
        because = None
        if not chain.is_linked:
            because = "the stages are parts of one model, which hands its hidden states on by itself"
        elif chain.order and name == chain.order[0]:
            because = f"{name!r} is the first stage and receives nothing"
        if because:
            for setting in _LINK_SETTINGS:
                value = getattr(stage, setting)
                if value != getattr(StageConfig, setting):
                    yield _ignored(name, setting, value, because)


def auxiliary_heads_are_before_the_last(config: RunConfig) -> Iterator[Problem]:
    chain = config.chain
    for name, stage in chain.stages.items():
        if stage.auxiliary is None:
            continue
        if not chain.is_linked:
            yield _ignored(name, "auxiliary", "{...}", "only linked models have auxiliary heads")
        elif chain.order and name == chain.order[-1]:
            yield _ignored(name, "auxiliary", "{...}", f"{name!r} is the last stage and has the head of the task")


def exits_have_a_head(config: RunConfig) -> Iterator[Problem]:
    chain = config.chain
    if chain.exit_confidence is not None and not _has_auxiliary(chain):
        yield Problem(
            "no-effect",
            f"chain.exit_confidence = {chain.exit_confidence} has no effect: no stage has an auxiliary head",
            key="chain.exit_confidence",
            help="give one to a stage: chain.stages.NAME.auxiliary.weight=0.3",
        )


def the_model_is_used(config: RunConfig) -> Iterator[Problem]:
    """`model.path` is for stages without a model of their own, and for those that name it."""
    stages = [stage for stage in config.chain.stages.values() if stage.kind is None]
    path = config.model.path
    defaults = {ModelConfig.path, find("task", config.task.name, key="task.name").default_model}
    if path not in defaults and stages and all(stage.model not in (None, path) for stage in stages):
        yield Problem(
            "no-effect",
            f"model.path = {path} has no effect: every stage brings a model of its own",
            key="model.path",
            help="leave it away, or take the model from a stage",
        )


def _has_auxiliary(chain: ChainConfig) -> bool:
    return any(stage.auxiliary is not None for stage in chain.stages.values())


def _ignored(stage: str, setting: str, value: Any, because: str, help: str | None = None) -> Problem:
    return no_effect(f"chain.stages.{stage}.{setting}", value, because, help)


LINK_RULES = (
    linked_stages_are_whole_models,
    links_have_something_to_link,
    auxiliary_heads_are_before_the_last,
    exits_have_a_head,
    the_model_is_used,
)

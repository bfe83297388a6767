"""From a config to several heads on one trunk, and from saved heads back to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from chainft.config.chain import ChainConfig
from chainft.config.run import ModelConfig
from chainft.errors import ConfigError, ModelError
from chainft.models.load import load_model
from chainft.models.read import LoadedModel
from chainft.stages.trunk import JointModel, trunk_names
from chainft.tasks.base import Task


def build_joint(config: ModelConfig, task: Task, *, seed: int) -> LoadedModel:
    """A model for each task, read from the same weights, as one. `task.labels` and `task.tokenizer` are set."""
    loaded = {name: load_model(config, one, seed=seed) for name, one in task.tasks.items()}
    model = JointModel({name: one.model for name, one in loaded.items()})
    new = [f"heads.{name}.{one}" for name, part in loaded.items() for one in part.new]
    kept = {name for name, _ in model.named_parameters()}  # Of a trunk that starts random, every name once.
    unused = set.intersection(*(set(part.unused) for part in loaded.values()))
    return LoadedModel(model, tuple(name for name in new if name in kept), tuple(sorted(unused)))


def check_joint(chain: ChainConfig) -> None:
    """Raise ConfigError for what a chain cannot do with several heads."""
    if chain.is_linked:
        raise ConfigError(
            "several heads are learned on one model, and the stages bring models of their own",
            slug="unsupported-by-chain",
            key="chain",
            help="cut one model instead, or learn the tasks in runs of their own",
        )
    for name, stage in chain.stages.items():
        if stage.from_ is not None:
            raise ConfigError(
                f"chain.stages.{name}.from = {stage.from_}: several heads start from one model",
                slug="unsupported-by-chain",
                key=f"chain.stages.{name}.from",
                help=f"start from that run's model instead: model.path={stage.from_}/model",
            )


def join(models: Mapping[str, PreTrainedModel], *, where: Mapping[str, str]) -> JointModel:
    """Saved models with equal trunks as one. Raises ModelError that names the first tensor which differs.

    `where`: the folder of each, for the message.
    """
    first, *others = models
    for name in others:
        _check_equal(models[first], models[name], where[first], where[name])
    return JointModel(models)


def _check_equal(one: PreTrainedModel, other: PreTrainedModel, where: str, there: str) -> None:
    mine, theirs = (_state(model) for model in (one, other))
    for name, match in trunk_names(one, other):
        if not torch.equal(mine[name], theirs[match]):
            raise ModelError(
                f"{name} of {where!r} and {there!r} differ, so one trunk cannot serve both heads",
                slug="unlike-trunks",
                where=there,
                help="train both with the same trunk wholly frozen, or together by task=joint",
            )


def _state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }

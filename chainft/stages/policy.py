"""What training may change in a stage: frozen parameters, modes, dropout, recomputation, groups of the optimizer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from chainft.errors import ConfigError, Problem
from chainft.stages.parts import Part


def freeze(parts: Sequence[Part]) -> set[int]:
    """Freeze what `frozen` says; returns the ids of those that are trained from `unfreeze_at` on.

    Raises ConfigError for a pattern that matches nothing, and where nothing is left to train.
    """
    later: set[int] = set()
    for part in parts:
        for parameter in _frozen(part):
            parameter.requires_grad_(False)
            if part.config.unfreeze_at is not None:
                later.add(id(parameter))
    return later


def _frozen(part: Part) -> list[nn.Parameter]:
    frozen = part.config.frozen
    if isinstance(frozen, bool):
        return list(part.parameters.values()) if frozen else []
    found = [parameter for name, parameter in part.parameters.items() if re.search(frozen, name)]
    if not found:
        some = ", ".join(list(part.parameters)[:4])
        raise ConfigError(
            f"{part.key}.frozen = {frozen!r} is found in no parameter's name",
            slug="no-match",
            key=f"{part.key}.frozen",
            help=f"names of this stage begin: {some}",
        )
    return found


def check_something_trains(parts: Sequence[Part]) -> None:
    """Raise ConfigError that lists the stages where none of them has a trainable parameter."""
    if not any(parameter.requires_grad for part in parts for parameter in part.parameters.values()):
        raise ConfigError.of(
            Problem(
                "nothing-to-train",
                f"stage {part.name!r} is frozen, as all others are",
                key=f"{part.key}.frozen",
                help="let at least one stage train, for example the one with the head",
            )
            for part in parts
        )


def set_dropout(part: Part) -> None:
    """Give every dropout of the stage the rate `dropout`: modules, and rates that attention keeps as numbers."""
    rate = part.config.dropout
    if rate is None:
        return
    for top in part.modules:
        for module in top.modules():
            if isinstance(module, nn.Dropout):
                module.p = rate
            for name, value in list(vars(module).items()):
                if "dropout" in name and isinstance(value, float):
                    setattr(module, name, rate)


def recompute(part: Part, model: PreTrainedModel, *, enabled: bool) -> None:
    """Whether the activations of the stage's blocks are recomputed. Raises ConfigError for blocks that cannot."""
    for path in part.blocks:
        block = model.get_submodule(path)
        if not isinstance(block, GradientCheckpointingLayer):
            if not enabled:
                continue
            raise ConfigError(
                f"{part.key}.gradient_checkpointing = true, but {type(block).__name__} cannot recompute its activations",
                slug="unsupported-by-model",
                key=f"{part.key}.gradient_checkpointing",
            )
        block.gradient_checkpointing = enabled
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]


def recompute_all(model: PreTrainedModel) -> None:
    """The same for all blocks (`train.gradient_checkpointing`). Raises ConfigError for a model that cannot."""
    if not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"train.gradient_checkpointing=true, but {type(model).__name__} cannot recompute its activations",
            slug="unsupported-by-model",
            key="train.gradient_checkpointing",
            help="lower train.micro_batch_size instead",
        )
    # transformers 5.23 renamed it; 5.17 has the old name only.
    new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
    getattr(model, new if hasattr(model, new) else old)({"use_reentrant": False})


@dataclass(frozen=True)
class Rate:
    """How a parameter is updated; None: as the optimizer's own settings say."""

    lr: float | None = None
    weight_decay: float | None = None


def rates(parts: Sequence[Part]) -> dict[int, Rate]:
    """Parameter id -> its stage's learning rate and weight decay."""
    return {
        id(parameter): Rate(part.config.lr, part.config.weight_decay)
        for part in parts
        for parameter in part.parameters.values()
    }


class Conduct:
    """Keeps stages in their mode and unfreezes them in time: a function of the step alone, so resuming is exact."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._still = [module for part in parts if part.config.eval_mode for module in part.modules]
        self._later = list(_unfreezing(parts))

    def begin(self, step: int, total_steps: int) -> None:
        """Set modes and flags for the update after `step` updates; the model was put into training mode before."""
        for module in self._still:
            module.train(False)
        for parameter, share in self._later:
            parameter.requires_grad_(step >= math.ceil(share * total_steps - 1e-9))


def _unfreezing(parts: Sequence[Part]) -> Iterator[tuple[nn.Parameter, float]]:
    for part in parts:
        if part.config.unfreeze_at is not None:
            yield from ((parameter, part.config.unfreeze_at) for parameter in _frozen(part))

"""What training may change in a stage: frozen parameters, modes, dropout, recomputation, groups of the optimizer."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from chainft.config.chain import StageConfig
from chainft.errors import ConfigError, Problem, did_you_mean
from chainft.stages.gates import without_cache
from chainft.stages.parts import Part, dropout_numbers


def freeze(parts: Sequence[Part]) -> dict[int, float]:
    """Freeze what `frozen` says; returns the id of each parameter that is trained later, with its `unfreeze_at`.

    What the model itself never trains, such as fixed position tables, is not among these. Raises ConfigError for a
    pattern that matches nothing.
    """
    later: dict[int, float] = {}
    for part in parts:
        for parameter in _frozen(part, parts):
            if part.config.unfreeze_at is not None and parameter.requires_grad:
                later[id(parameter)] = part.config.unfreeze_at
            parameter.requires_grad_(False)
    return later


def _frozen(part: Part, parts: Sequence[Part]) -> list[nn.Parameter]:
    frozen = part.config.frozen
    if isinstance(frozen, bool):
        return list(part.parameters.values()) if frozen else []
    found = [parameter for name, parameter in part.parameters.items() if re.search(frozen, name)]
    shared = list(_shared_names(part, parts))
    if not found and not any(re.search(frozen, name) for name in shared):
        some = ", ".join([*part.parameters, *shared][:4])
        raise ConfigError(
            f"{part.key}.frozen = {frozen!r} is found in no parameter's name",
            slug="no-match",
            key=f"{part.key}.frozen",
            help=did_you_mean(frozen, ("true", "false")) or f"names of this stage begin: {some}",
        )
    return found


def _shared_names(part: Part, parts: Sequence[Part]) -> Iterator[str]:
    """All names of the parameters in the stage's blocks that are in another stage's parameters, whose pattern counts."""
    blocks = tuple(f"{path}." for path in part.blocks)
    for other in parts:
        inside = {id(one) for name, one in other.parameters.items() if name.startswith(blocks)}
        yield from (name for name, one in other.parameters.items() if id(one) in inside)


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


def set_dropout(part: Part, model: PreTrainedModel) -> None:
    """Give every dropout of the stage the rate `dropout`: modules, rates that modules keep as numbers, and those that
    blocks read from their config (Falcon), which becomes a copy. Raises ConfigError for a stage without any."""
    rate = part.config.dropout
    if rate is None:
        return
    inside = [module for top in part.modules for module in top.modules()]
    changed = 0
    for module in inside:
        if isinstance(module, nn.Dropout):
            module.p = rate
            changed += 1
    for module in [*inside, *part.containers]:
        for name in list(dropout_numbers(module)):
            setattr(module, name, rate)
            changed += 1
    if not changed:
        raise ConfigError(
            f"{part.key}.dropout = {rate} has no effect: {type(model).__name__} has no dropout in this stage",
            slug="no-effect",
            key=f"{part.key}.dropout",
            help="leave it away, or set it for the stage with the blocks",
        )
    _set_in_config(part, model, rate)


def _set_in_config(part: Part, model: PreTrainedModel, rate: float) -> None:
    own = copy.deepcopy(model.config)
    for name in [name for name in vars(own) if name.endswith("_dropout")]:
        setattr(own, name, rate)
    for path in part.blocks:
        for module in model.get_submodule(path).modules():
            if getattr(module, "config", None) is model.config:
                setattr(module, "config", own)  # noqa: B010 - torch types attributes as tensors and modules


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


def switch_cache_off_in_training(model: PreTrainedModel) -> None:
    """Recomputed blocks would enter their keys and values into the cache again; models switch it off only where all
    of them recompute (modeling_gpt2.py, `GPT2Model.forward`)."""
    off = without_cache(model)

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, **off} if module.training else kwargs

    model.register_forward_pre_hook(hook, with_kwargs=True)


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

    def __init__(self, parts: Sequence[Part], later: Mapping[int, float]) -> None:
        """`later`: when the parameters with these ids are trained from, as a share of the training."""
        still = [part for part in parts if part.config.eval_mode]
        self._still = [module for part in still for module in part.modules]
        self._containers = [module for part in still for module in part.containers]
        distinct = {id(parameter): parameter for part in parts for parameter in part.parameters.values()}
        self._later = [(distinct[key], share) for key, share in later.items()]

    @property
    def unfreezes(self) -> bool:
        """Whether something is trained later that is frozen at first."""
        return bool(self._later)

    def begin(self, step: int, total_steps: int) -> None:
        """Set modes and flags for the update after `step` updates; the model was put into training mode before."""
        self.set_modes()
        self.set_flags(step, total_steps)

    def set_modes(self) -> None:
        """The same modes in every step."""
        for module in self._still:
            module.train(False)
        for module in self._containers:
            module.training = False  # Of itself alone: the blocks in it may be another stage's.

    def set_flags(self, step: int, total_steps: int) -> None:
        """What is trained in the update after `step` updates."""
        for parameter, share in self._later:
            parameter.requires_grad_(step >= unfrozen_from(share, total_steps))


def unfrozen_from(share: float, total_steps: int) -> int:
    """How many updates are done when what `unfreeze_at` names is trained first."""
    return math.ceil(share * total_steps - 1e-9)  # The small term undoes float error.


def check_unfreezing(stages: Mapping[str, StageConfig], total_steps: int) -> None:
    """Raise ConfigError for a stage that would be trained in no step of so short a training."""
    for name, stage in stages.items():
        share = stage.unfreeze_at
        if share is not None and unfrozen_from(share, total_steps) >= total_steps:
            raise ConfigError(
                f"chain.stages.{name}.unfreeze_at = {share} has no effect: the training has {total_steps} steps, and "
                "the stage would be trained after the last",
                slug="no-effect",
                key=f"chain.stages.{name}.unfreeze_at",
                help=f"give at most {(total_steps - 1) / total_steps:.4g}" if total_steps > 1 else "train longer",
            )

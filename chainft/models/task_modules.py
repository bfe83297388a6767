"""Modules of a task's own on a Hugging Face model, such as a CRF: trained, checkpointed and saved with the model.

They stand beside body and head (`model.crf`), so that optimizer, checkpoints, stages of a chain and `save_pretrained`
see their parameters as any other. In the model folder their tensors are in the same safetensors, as `crf.*`: plain
transformers loads such a folder, tells of tensors that it has no place for, and gives the logits of the head alone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from chainft.auto_classes import LINKED
from chainft.errors import ConfigError, ModelError
from chainft.models.tensor_index import tensors_below
from chainft.models.weights import Located

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TaskModule(nn.Module):
    """What a task computes with beside the head. Its parameters have no weight decay."""

    lr: float | None = None
    """Peak learning rate of its parameters; None: that of their stage, or `optimizer.lr`."""

    @abstractmethod
    def reorder(self, order: Sequence[int]) -> None:
        """Put what is by label into another order: place i gets what place `order[i]` has."""


def attach(model: PreTrainedModel, modules: Mapping[str, TaskModule]) -> None:
    """Put modules on a model under their names. Raises ConfigError for linked models, which have several heads."""
    if modules and model.config.model_type == LINKED:
        raise ConfigError(
            f"task.{next(iter(modules))} is for one model with one head, and the model is linked ones",
            slug="unsupported-by-chain",
            key=f"task.{next(iter(modules))}",
            help="leave it away, or cut one model into stages instead",
        )
    for name, module in modules.items():
        if hasattr(model, name):
            raise ValueError(f"{type(model).__name__} has a {name} already")
        model.add_module(name, module.to(model.device))


def fill(modules: Mapping[str, TaskModule], place: Located, *, order: Sequence[int] | None) -> tuple[str, ...]:
    """Give modules the values that a model folder has for them; returns the names of the parameters it brought.

    `order`: that of the labels here, as places in the folder's order. A folder of a model without them brings none.
    Raises ModelError for tensors of another shape, and for a part of them.
    """
    brought: list[str] = []
    for name, module in modules.items():
        saved = tensors_below(place, f"{name}.")
        if not saved:
            continue
        _check(saved, module, name, place)
        module.load_state_dict(saved)
        if order is not None:
            module.reorder(order)
        brought += [f"{name}.{key}" for key in saved]
    return tuple(brought)


def own_rates(model: nn.Module) -> dict[int, float | None]:
    """Id of each parameter of a task's modules -> its peak learning rate, None where it has none of its own."""
    found = [module for module in model.modules() if isinstance(module, TaskModule)]
    return {id(parameter): module.lr for module in found for parameter in module.parameters()}


def _check(saved: Mapping[str, Tensor], module: nn.Module, name: str, place: Located) -> None:
    wanted = {key: tensor.shape for key, tensor in module.state_dict().items()}
    shapes = {key: torch.Size(tensor.shape) for key, tensor in saved.items()}
    if shapes != wanted:
        wrong = sorted(key for key in wanted.keys() | shapes.keys() if wanted.get(key) != shapes.get(key))
        raise ModelError(
            f"{name}.{wrong[0]} of {place.name!r} has the shape {list(shapes.get(wrong[0], ()))}, "
            f"here {list(wanted.get(wrong[0], ()))}: it is for other labels",
            slug="wrong-head",
            key="model.path",
            help="start with new ones by model.head=new, or use data with the same label names",
        )

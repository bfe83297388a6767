"""A model without weights: every shape and every line of its forward pass, next to no memory.

Each parameter is one zero seen through strides of 0, so that a forward pass runs (and gives nonsense) on the CPU with
the true code of its architecture, also where that looks at values, which the meta device cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


def skeleton(auto: Any, architecture: PreTrainedConfig, options: Mapping[str, Any] | None = None) -> PreTrainedModel:
    """The model that the `auto` class of transformers builds for `architecture`, with parameters that take no memory.

    `options`: further arguments of the model's class.
    """
    with _parameters_on_meta():
        model: PreTrainedModel = auto.from_config(
            architecture, trust_remote_code=False, dtype=torch.float32, **(options or {})
        )
    fill_with_ghosts(model)
    model.train(False)
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")  # The grouped kernels refuse strides of 0.
    return model


def shapes_by_config(model: PreTrainedModel) -> dict[str, torch.Size]:
    """The shapes that a model's parameters have where its config alone says them, as for who loads it.

    Of several heads on one trunk, those of the model of each head, which is what is loaded.
    """
    several: Any = model
    wholes: Mapping[str, Any] = several.wholes() if hasattr(model, "wholes") else {"": model}
    found: dict[str, torch.Size] = {}
    for start, one in wholes.items():
        with torch.random.fork_rng(devices=[]), _parameters_on_meta():
            new = type(one)(one.config)
        found |= {f"{start}{name}": each.shape for name, each in new.named_parameters(remove_duplicate=False)}
    return found


def fill_with_ghosts(model: nn.Module) -> None:
    """Give every parameter, and every buffer that has no values, the memory of one number; what is tied stays so."""
    same: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            ghost = same.setdefault(
                id(parameter), nn.Parameter(ghost_of(parameter), requires_grad=parameter.requires_grad)
            )
            setattr(module, name, ghost)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.device.type == "meta":  # Made like a parameter, such as those of ibert.
                module._buffers[name] = ghost_of(buffer)


def ghost_of(tensor: Tensor) -> Tensor:
    """Zeros of the same shape and type on the CPU that take the memory of one number."""
    return torch.zeros(1, dtype=tensor.dtype).expand(tensor.shape)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Let every new parameter drop its values at once; buffers, which are computed and small, stay."""
    register = nn.Module.register_parameter

    def dropping(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and param.device.type != "meta":  # One that is tied comes here again as it is.
            param = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
        register(self, name, param)

    nn.Module.register_parameter = dropping  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]

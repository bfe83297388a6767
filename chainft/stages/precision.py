"""Blocks in another floating type than the rest of the model, and hidden states in another than their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def set_dtype(model: nn.Module, paths: Iterable[str], dtype: str) -> None:
    """Cast the blocks at `paths`. What enters one is cast to `dtype`, what leaves it to float32: masks and rotary
    embeddings come in float32 from the model, and the next block need not know."""
    for path in paths:
        block = model.get_submodule(path)
        torch.nn.Module.to(block, DTYPES[dtype])
        block.register_forward_pre_hook(_Cast(DTYPES[dtype]), with_kwargs=True)
        block.register_forward_hook(_cast_back)


def set_hidden_dtype(model: nn.Module, paths: Iterable[str], dtype: torch.dtype) -> None:
    """Under autocast, hand hidden states to the blocks at `paths` in `dtype`, and on from every norm.

    Autocast computes norms in float32 and leaves their outputs so, and with them what is added to these: the largest
    share of what a block reads and writes. Norms compute in float32 still.
    """
    cast = _CastUnderAutocast(dtype)
    for path in paths:
        model.get_submodule(path).register_forward_pre_hook(cast.inputs, with_kwargs=True)
    for module in model.modules():
        if "norm" in type(module).__name__.casefold():
            module.register_forward_hook(cast.output)


class _CastUnderAutocast:
    """Hooks that cast float32 to another type where autocast is on."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (self._cast(args[0]), *args[1:]), kwargs
        return args, {name: self._cast(one) if name == "hidden_states" else one for name, one in kwargs.items()}

    def output(self, module: nn.Module, args: object, output: Any) -> Any:
        return self._cast(output)

    def _cast(self, value: Any) -> Any:
        is_wide = isinstance(value, Tensor) and value.dtype == torch.float32
        return value.to(self.dtype) if is_wide and torch.is_autocast_enabled(value.device.type) else value


class _Cast:
    """A pre-forward hook that casts every floating tensor among the arguments."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        return tree_map(self._cast, args), tree_map(self._cast, kwargs)

    def _cast(self, value: object) -> object:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == self.dtype:
            return value
        limits = torch.finfo(self.dtype)
        if torch.finfo(value.dtype).max > limits.max:
            value = value.clamp(
                limits.min, limits.max
            )  # A mask's least float32 would become -inf, and a masked row NaN.
        return value.to(self.dtype)


def _cast_back(module: nn.Module, args: object, output: Any) -> Any:
    cast = _Cast(torch.float32)
    return tree_map(cast._cast, output)

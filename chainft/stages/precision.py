"""Blocks that keep their weights and compute in another floating type than the rest of the model."""

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

"""Tensors of which each process has a slice, and whole ones (FSDP2's DTensors and plain tensors)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as the slice that `like` is, where that is one."""
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or value.shape != like.shape:
        return value
    moved = value.to(like.device, like.dtype)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


def as_number(value: Any) -> float:
    """A norm, which of slices is a sum that was not exchanged yet."""
    return float(value.full_tensor() if isinstance(value, DTensor) else value)

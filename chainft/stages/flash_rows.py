"""Attention of rows that stand end to end, on a GPU: torch's FlashAttention kernel for rows of different length.

It is the kernel that torch runs for jagged nested tensors (Dao 2023, arXiv:2307.08691), called without making any: for
bfloat16 and float16, with dropout, fewer heads of keys and values than of queries, and no groups of rows. Letters: T
tokens of all rows, R tokens that attend (all, or those that are read), H heads, K heads of keys, W width of a head, B
rows.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from chainft.stages.packed_layout import Layout

_WIDEST = 256
"""Widest head that the kernel takes."""
_TYPES = (torch.bfloat16, torch.float16)


class Bounds:
    """Where rows begin, for the time of a forward pass. Plain attributes, so that compiled blocks read them anew."""

    def __init__(self) -> None:
        self.ends: Tensor | None = None
        """(B + 1,) int32: 0, and the end of each row; None: no rows stand end to end on a GPU."""
        self.longest = 0
        """Tokens of the longest row, or more: blocks of the kernel that find no tokens end at once."""
        self.least = 0
        """Least `longest`: what is compiled for one number is compiled anew for another."""

    def of(self, layout: Layout | None) -> None:
        """Those of a layout; None: none."""
        if layout is None:
            self.ends, self.longest = None, 0
        else:
            self.ends, self.longest = layout.ends, max(layout.longest, self.least)


BOUNDS = Bounds()
"""Of the forward pass that runs in this process: models on one GPU run one after the other."""


def suits(query: Tensor) -> bool:
    """Whether queries (1, H, R, W) are of a kind that the kernel takes."""
    width = query.shape[3]
    return query.dtype in _TYPES and width <= _WIDEST and width % 8 == 0


def in_type_of(value: Tensor, other: Tensor) -> Tensor:
    """Queries or keys in the type of the values, where that is one of 16 bits.

    Rotations by position leave them in float32 under autocast, and torch's own attention rounds them too.
    """
    return other.to(value.dtype) if value.dtype in _TYPES else other


@cache
def is_available(device: torch.device) -> bool:
    """Whether torch has the kernel for the device: CUDA of compute capability 8.0 or more."""
    if device.type != "cuda" or not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    longest: int,
    *,
    query_ends: Tensor | None = None,
    most: int = 0,
    causal: bool,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """(1, R, H, W) of queries (1, H, R, W), keys and values (1, K, T, W).

    `ends`, `longest`: of keys and values, as in `Bounds`. `query_ends`, `most`: of queries where not all tokens attend,
    which causal attention does not allow here.
    """
    found: Tensor = torch.ops.aten._flash_attention_forward(
        *(one[0].transpose(0, 1) for one in (query, key, value)),
        ends if query_ends is None else query_ends,
        ends,
        longest if query_ends is None else most,
        longest,
        dropout_p,
        causal,
        False,
        scale=scale,
    )[0]
    return found[None]

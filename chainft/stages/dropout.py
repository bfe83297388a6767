"""Dropout on a CPU in less than half the time (`scripts/bench_rows.py`): four random numbers of 16 bits out of each draw of 64.

torch draws a number for each entry, one after the other, which costs more there than reading the entries. An entry
is zeroed with probability round(65536 p) / 65536, and those that stay are divided by the exact probability of staying, so
that the mean is kept (Srivastava et al. 2014). The draws come from torch's own generator: seeds, saved random states and
recomputed activations work as with torch's dropout, though other entries are zeroed.
"""

from __future__ import annotations

import torch
from torch import Size, Tensor, nn

_STEPS = 1 << 16
_DRAWS = 4
"""Numbers of 16 bits in a draw."""


class QuickDropout(nn.Dropout):
    """`nn.Dropout`; entries of other types than float32, or on other devices, are zeroed by torch's."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not is_quick(input, self.p):
            return super().forward(input)
        return input * keep_mask(input.shape, self.p)


def quicken(model: nn.Module) -> None:
    """Let all dropout modules of a model draw so, in place."""
    for module in model.modules():
        if type(module) is nn.Dropout and not module.inplace:
            module.__class__ = QuickDropout


def is_quick(like: Tensor, p: float) -> bool:
    """Whether `keep_mask` can stand for torch's dropout of such entries at rate `p`."""
    return like.device.type == "cpu" and like.dtype == torch.float32 and 0 < _dropped(p) < _STEPS


def keep_mask(shape: Size, p: float) -> Tensor:
    """Random factors of a shape: 0 with probability `p`, else what keeps the mean."""
    count, dropped = shape.numel(), _dropped(p)
    draws = torch.empty(-(-count // _DRAWS), dtype=torch.int64).random_(-(1 << 63), None)
    numbers = draws.view(torch.int16)[:count].view(shape)  # From -32768 on.
    return numbers.float().ge_(dropped - _STEPS // 2).mul_(_STEPS / (_STEPS - dropped))


def _dropped(p: float) -> int:
    return round(p * _STEPS)

"""Clipping of gradients by their norm, as torch does it, without a pass over gradients that need none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

_LEAST = 1e-6
"""What torch adds to the norm before it divides by it."""


def clip(parameters: Sequence[Tensor], limit: float | None) -> float:
    """The norm of all gradients before; `limit` None: they are not clipped.

    torch multiplies gradients by 1 where the norm is below the limit, which reads and writes them all for nothing: a
    thirtieth of a step on a CPU. The numbers are the same.
    """
    gradients = [one.grad for one in parameters if one.grad is not None]
    norm = get_total_norm(gradients)
    if limit is not None and not bool(limit / (norm + _LEAST) >= torch.ones_like(norm)):
        clip_grads_with_norm_(list(parameters), limit, norm)
    return float(norm)

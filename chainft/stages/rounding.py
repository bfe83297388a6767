"""Whether hidden states, or logits, are the same but for rounding."""

from __future__ import annotations

from torch import Tensor

TOLERANCE = 1e-4
"""Most difference of a token's hidden states, beside their size."""


def alike(found: Tensor, expected: Tensor, *, tolerance: float = TOLERANCE) -> bool:
    """Of hidden states or logits (..., D), token by token; never with NaN in them.

    Not entry by entry: some models have entries of thousands beside others of hundredths, which the rounding of the
    former moves (Sun et al. 2024, massive activations).
    """
    difference, size = (found - expected).norm(dim=-1), expected.norm(dim=-1)
    return bool((difference <= tolerance * size).all())

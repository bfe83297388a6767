"""LSTM layers over padded texts, in both directions, by operations that are the same for every length.

Packed sequences of torch would be others for other lengths, and cannot be foreseen by a plan. Here the tokens of a row
are moved to its front, and for the other direction turned round there: padding then comes after all that counts.
Letters: B batch, L length, D width, H units of a direction.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BothWays(nn.Module):
    """(B, L, D) to (B, L, 2H); zeros in padded places."""

    def __init__(self, width: int, units: int, *, depth: int, dropout: float) -> None:
        super().__init__()
        widths = [width, *[2 * units] * (depth - 1)]
        self.dropout = nn.Dropout(dropout)
        self.forwards = nn.ModuleList(nn.LSTM(one, units, batch_first=True) for one in widths)
        self.backwards = nn.ModuleList(nn.LSTM(one, units, batch_first=True) for one in widths)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """`hidden` (B, L, D), `mask` (B, L): 1 for tokens, wherever they are in a row."""
        real = mask.bool()
        front = (~real).long().argsort(dim=1, stable=True)
        turn = _turning(real.sum(1, keepdim=True), real.shape[1])
        hidden = _taken(hidden, front)
        for right, left in zip(self.forwards, self.backwards, strict=True):
            hidden = self.dropout(hidden)
            forth, _ = right(hidden)
            back, _ = left(_taken(hidden, turn))
            hidden = torch.cat([forth, _taken(back, turn)], dim=-1)
        return _taken(hidden, front.argsort(dim=1)) * real.unsqueeze(-1)


def _turning(lengths: Tensor, most: int) -> Tensor:
    """(B, L) places that turn the first `lengths` (B, 1) of each row round and leave the rest; twice is none."""
    places = torch.arange(most, device=lengths.device).expand(len(lengths), most)
    return torch.where(places < lengths, lengths - 1 - places, places)


def _taken(hidden: Tensor, places: Tensor) -> Tensor:
    """(B, L, D) in the order of `places` (B, L)."""
    return hidden.gather(1, places.unsqueeze(-1).expand_as(hidden))

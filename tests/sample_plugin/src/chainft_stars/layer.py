"""The modules of head and stage, apart because they need torch when they are imported.

B batch, L tokens, D width, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CosineLayer(nn.Module):
    def __init__(self, width: int, num_outputs: int, *, scale: float) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(num_outputs, width))
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) to (..., C)."""
        cosine = functional.normalize(hidden, dim=-1) @ functional.normalize(self.directions, dim=-1).T
        return self.scale * cosine


class Smoothing(nn.Module):
    def __init__(self, width: int, *, share: float) -> None:
        super().__init__()
        self.shares = nn.Parameter(torch.full((width,), share))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, L, D) and (B, L) to (B, L, D): each moved to the mean of the text's tokens by its share."""
        real = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        return hidden + self.shares * (mean - hidden)

"""The module of the head, apart because it needs torch when it is imported. D width, C classes."""

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

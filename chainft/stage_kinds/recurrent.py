"""LSTM layers that read in both directions, as taggers have them (Lample et al. 2016, arXiv:1603.01360)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from chainft.config.chain import StageKindConfig
from chainft.config.ranges import Count, FractionBelowOne
from chainft.stage_kinds.base import Stage

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(StageKindConfig):
    """LSTM layers, each from left to right and from right to left."""

    name: str = "recurrent"
    hidden_size: Count | None = None
    """Units of each direction; the hidden states are twice as wide. Default: half the width of those that come in."""
    num_layers: Count = 1
    """Layers, one on another."""
    dropout: FractionBelowOne = 0.1
    """Share of what each layer reads that is set to zero in training."""


class Recurrent(Stage):
    config_class: ClassVar[type[StageKindConfig]] = RecurrentConfig
    config: RecurrentConfig

    def width(self, width_in: int) -> int:
        return 2 * (self.config.hidden_size or max(1, width_in // 2))

    def build(self, width_in: int) -> nn.Module:
        from chainft.models.recurrent import BothWays

        settings = self.config
        return BothWays(width_in, self.width(width_in) // 2, depth=settings.num_layers, dropout=settings.dropout)


PLUGIN = Recurrent

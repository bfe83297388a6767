"""Scores by the angle between a hidden state and a direction for each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from chainft.config.ranges import Positive
from chainft.config.run import HeadConfig
from chainft.heads.base import Head

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class CosineConfig(HeadConfig):
    """Scores by angle."""

    name: str | None = "cosine"
    scale: Positive = 10.0
    """What the cosine is multiplied by, to begin with."""


class Cosine(Head):
    config_class: ClassVar[type[HeadConfig]] = CosineConfig
    config: CosineConfig

    def build(self, width: int, num_outputs: int) -> nn.Module:
        from chainft_stars.layer import CosineLayer

        return CosineLayer(width, num_outputs, scale=self.config.scale)

"""A stage that moves the tokens of a text to their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from chainft.config.chain import StageKindConfig
from chainft.config.ranges import Fraction
from chainft.stage_kinds.base import Stage

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class SmoothConfig(StageKindConfig):
    """Tokens moved to their mean."""

    name: str = "smooth"
    share: Fraction = 0.5
    """How far, to begin with."""


class Smooth(Stage):
    config_class: ClassVar[type[StageKindConfig]] = SmoothConfig
    config: SmoothConfig

    def build(self, width_in: int) -> nn.Module:
        from chainft_stars.layer import Smoothing

        return Smoothing(width_in, share=self.config.share)

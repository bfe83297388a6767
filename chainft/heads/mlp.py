"""A head with a hidden layer: more to learn with than a linear one, for frozen or small models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from chainft.config.ranges import Count, FractionBelowOne
from chainft.config.run import HeadConfig
from chainft.heads.base import Head

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class MlpConfig(HeadConfig):
    """A linear layer, an activation, dropout, a linear layer."""

    name: str | None = "mlp"
    hidden_size: Count | None = None
    """Width of the hidden layer; default: that of the model's hidden states."""
    activation: Literal["gelu", "relu", "tanh"] = "gelu"
    """What stands between the two layers."""
    dropout: FractionBelowOne = 0.1
    """Share of the hidden layer that is set to zero in training."""


class Mlp(Head):
    config_class: ClassVar[type[HeadConfig]] = MlpConfig
    config: MlpConfig

    def build(self, width: int, num_outputs: int) -> nn.Module:
        from torch import nn

        activations = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh}
        hidden = self.config.hidden_size or width
        return nn.Sequential(
            nn.Linear(width, hidden),
            activations[self.config.activation](),
            nn.Dropout(self.config.dropout),
            nn.Linear(hidden, num_outputs),
        )


PLUGIN = Mlp

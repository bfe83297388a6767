"""Two linear layers with an activation between, as LLaVA 1.5 connects models (Liu et al. 2023, arXiv:2310.03744)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from chainft.config.chain import ConnectorConfig
from chainft.config.ranges import Count
from chainft.connectors.base import Connector

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class MlpConnectorConfig(ConnectorConfig):
    """A linear layer, GELU, a linear layer."""

    name: str = "mlp"
    hidden_size: Count | None = None
    """Width between the two layers; default: that of the hidden states that come out."""


class MlpConnector(Connector):
    config_class: ClassVar[type[ConnectorConfig]] = MlpConnectorConfig
    config: MlpConnectorConfig

    def build(self, width_in: int, width_out: int) -> nn.Module:
        from torch import nn

        hidden = self.config.hidden_size or width_out
        return nn.Sequential(nn.Linear(width_in, hidden), nn.GELU(), nn.Linear(hidden, width_out))


PLUGIN = MlpConnector

"""Connectors that are plug-ins: made from the settings in the config of linked models, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from chainft.config.chain import ConnectorConfig
from chainft.config.parse import parse
from chainft.models.foreign_modules import check_module
from chainft.registry import find

KEY = "connector"


def make_connector(settings: Mapping[str, Any], width_in: int, width_out: int) -> nn.Module:
    """A new module (B, L, `width_in`) -> (B, L, `width_out`) of the plug-in that `settings` name.

    Raises ConfigError where no installed package brings it, its settings are others by now, or it makes another shape.
    """
    config = parse(ConnectorConfig, settings, at=KEY)
    made = find("connector", config.name, key=f"{KEY}.name")(config).build(width_in, width_out)
    tried = torch.zeros(2, 3, width_in)
    return check_module(made, [(tried,)], width_out, what=f"connector {config.name!r}", key=f"{KEY}.name")

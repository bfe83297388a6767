"""What a connector is: the module between the hidden states that a linked model gives and those that the next takes.

Letters: B batch, L tokens, D widths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from chainft.config.chain import ConnectorConfig

if TYPE_CHECKING:
    from torch import nn


class Connector(ABC):
    """A kind of connector of linked models: one module here that binds its class to `PLUGIN`.

    It is chosen for a stage by `chain.stages.NAME.connector.name`, and made once for each stage that this one receives
    from. It imports torch only inside `build`, so that its settings are checked without.
    """

    config_class: ClassVar[type[ConnectorConfig]]
    config: ConnectorConfig

    def __init__(self, config: ConnectorConfig) -> None:
        self.config = config

    @abstractmethod
    def build(self, width_in: int, width_out: int) -> nn.Module:
        """A new module that maps hidden states (B, L, `width_in`) to (B, L, `width_out`), both float.

        Each position is mapped by itself, since what is padding, or where another text begins, is not told. Its random
        values come from torch's global generator, which is seeded, and it is trained, frozen, saved and read again by
        the names of its parameters and persistent buffers.
        """

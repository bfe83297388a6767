"""What a kind of stage is: a module of its own in a chain of linked models, which reads the hidden states before it.

Between models it hands its hidden states on to the next; at the end of a chain chainft puts the head of the task (one
linear layer) on it. Letters: B batch, L tokens, D widths.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from chainft.config.chain import StageKindConfig

if TYPE_CHECKING:
    from torch import nn


class Stage(ABC):
    """A kind of stage: one module here that binds its class to `PLUGIN`.

    It is chosen by `chain.stages.NAME.kind.name`. It imports torch only inside `build`, so that its settings are checked
    without.
    """

    config_class: ClassVar[type[StageKindConfig]]
    config: StageKindConfig

    def __init__(self, config: StageKindConfig) -> None:
        self.config = config

    def width(self, width_in: int) -> int:
        """Width of the hidden states that the module gives out; by default, of those that come in."""
        return width_in

    @abstractmethod
    def build(self, width_in: int) -> nn.Module:
        """A new module: called with hidden states (B, L, `width_in`), float, and the attention mask (B, L), whole numbers,
        1 for tokens and 0 for padding, it gives hidden states (B, L, `width(width_in)`).

        What stands in padded places may change nothing of what it gives for tokens, and no row anything of another. Its
        random values come from torch's global generator, which is seeded, and it is trained, frozen, saved and read again
        by the names of its parameters and persistent buffers.
        """

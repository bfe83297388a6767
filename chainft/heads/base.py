"""What a head is: the module that turns hidden states of the model into the scores of a task.

A model of transformers ends in a linear layer that gives one score for each class (tags, labels, start and end of an
answer). A head stands in the place of that layer; what the model does before it (pooling, dropout) and what the task
makes of the scores (loss, prediction) stay as they are. Letters: D width, C scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from chainft.config.run import HeadConfig

if TYPE_CHECKING:
    from torch import nn


class Head(ABC):
    """A kind of head: one module here that binds its class to `PLUGIN`, and one YAML in `conf/head`.

    It imports torch only inside `build`, so that its settings are checked without.
    """

    config_class: ClassVar[type[HeadConfig]]
    config: HeadConfig

    def __init__(self, config: HeadConfig) -> None:
        self.config = config

    @abstractmethod
    def build(self, width: int, num_outputs: int) -> nn.Module:
        """A new module that maps hidden states (..., D=`width`) to scores (..., C=`num_outputs`), both float.

        The leading axes are batch (B, D) or batch and tokens (B, L, D); each place is mapped by itself, since what is
        padding, or where another text begins, is not told. Its random values come from torch's global generator,
        which is seeded, and it is trained, frozen, saved and read again by the names of its parameters and buffers.
        """

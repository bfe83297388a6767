"""How a training batch goes through the model: as it is, without padding, and from where frozen stages end."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from chainft.config.run import RunConfig
from chainft.data.batching import Batch
from chainft.errors import ConfigError
from chainft.stages.chain import Chain
from chainft.stages.gates import without_cache
from chainft.stages.links import LinkedModel
from chainft.stages.packing import Packing, packing_of
from chainft.tasks.base import Task
from chainft.train.reads import Reads


class Lender(Protocol):
    """What `chainft.train.prefix_cache` keeps of frozen stages for the rows of a store."""

    @property
    def start(self) -> int:
        """The first block that is computed."""
        ...

    def states(self, batch: Batch) -> Tensor:
        """(B, L, D) what goes into it."""
        ...

    def __call__(self, batch: Batch) -> AbstractContextManager[None]:
        """Within the context, the model's forward pass of the batch begins there."""
        ...


class Forward:
    """Runs batches of one store; `lender` may come later, when the weights are those that training goes on with."""

    def __init__(
        self, model: PreTrainedModel, task: Task, packing: Packing | None = None, reads: Reads | None = None
    ) -> None:
        self.model: Any = model
        """As Accelerate hands it back."""
        self.task = task
        self.packing = packing
        self.reads = reads
        """Which tokens' last hidden states are read; None: all."""
        self.lender: Lender | None = None
        self._no_cache = without_cache(model)

    def packs(self, lengths: np.ndarray) -> bool:
        """Whether rows of these lengths run without padding."""
        return self.packing is not None and self.packing.takes(lengths)

    def __call__(self, batch: Batch) -> Any:
        """The model's output for the batch."""
        arguments = {**self.task.arguments(batch), **self._no_cache}
        lengths = batch.lengths.numpy()
        if self.packing is not None and self.packing.takes(lengths):
            read = self.reads.of(batch) if self.reads else None
            if self.lender is None:
                return self.packing.run(arguments, lengths, read=read)
            states, start = self.lender.states(batch), self.lender.start
            return self.packing.run(arguments, lengths, states=states, start=start, read=read)
        with self.lender(batch) if self.lender else nullcontext():
            return self.model(**arguments)


def find_packing(model: PreTrainedModel, config: RunConfig, chain: Chain) -> Packing | None:
    """How batches run without padding; None where they run padded, as configured or because the model wants it.

    Raises ConfigError where `train.padding_free=true` cannot be.
    """
    wanted = config.train.padding_free
    if wanted is False or (wanted == "auto" and model.device.type != "cpu"):
        return None
    recomputed = config.train.gradient_checkpointing or any(part.config.gradient_checkpointing for part in chain.parts)
    because = None
    found = None
    if config.launch.divides:
        because = "a model that is sharded or cut into stages runs by its own forward pass"
    elif recomputed:
        because = "activations are recomputed, which needs the batch as the blocks had it"
    elif isinstance(model, LinkedModel):
        because = "linked models hand padded hidden states on"
    elif model.config.is_encoder_decoder:
        because = "an encoder-decoder reads two sequences at once"
    elif (found := packing_of(model)) is None:
        because = f"{type(model).__name__} computes other hidden states then"
    if because and wanted is True:
        raise ConfigError(
            f"train.padding_free = true is not possible: {because}",
            slug="unsupported-by-model",
            key="train.padding_free",
            help="leave it away: batches are cut by length, so that little is padded",
        )
    return found

"""How a batch goes through the model: as it is, without padding, and from where frozen stages end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from chainft.data.batching import Batch
from chainft.data.store import FeatureStore
from chainft.infer.reads import Reads, find_reads
from chainft.stages.cuda_graphs import Graphs
from chainft.stages.deferred_head import DeferredHead
from chainft.stages.gates import without_cache
from chainft.stages.links import LinkedModel
from chainft.stages.packing import Packing, packing_of
from chainft.tasks.base import Arrays, Task

LEAST_ROWS = 16
"""Trying whether a model can be run without padding takes as long as answering a few rows."""


class Lender(Protocol):
    """What `chainft.train.prefix_cache` keeps of frozen stages for the rows of a store."""

    def __call__(self, batch: Batch) -> AbstractContextManager[None]:
        """Within the context, the model's forward pass of the batch begins after them."""
        ...


@runtime_checkable
class BlockLender(Lender, Protocol):
    """The same of the blocks of one model."""

    @property
    def start(self) -> int:
        """The first block that is computed."""
        ...

    def states(self, batch: Batch) -> Tensor:
        """(B, L, D) what goes into it."""
        ...

    def packed(self, batch: Batch, order: np.ndarray) -> Tensor:
        """(T, D) the same without padding, of the rows (B,) in this order."""
        ...


class Forward:
    """Runs batches of one store; `lender` may come later, when the weights are those that training goes on with."""

    def __init__(
        self,
        model: PreTrainedModel,
        task: Task,
        packing: Packing | None = None,
        reads: Reads | None = None,
        deferred: DeferredHead | None = None,
    ) -> None:
        self.model: Any = model
        """As Accelerate hands it back."""
        self.task = task
        self.packing = packing
        self.reads = reads
        """Which tokens' last hidden states are read; None: all."""
        self.deferred = deferred
        """What leaves the logits of a language model to the loss; None: the model computes them all."""
        self.lender: Lender | None = None
        self._no_cache = without_cache(model)

    def packs(self, lengths: np.ndarray) -> bool:
        """Whether rows of these lengths run without padding."""
        return self.packing is not None and self.packing.takes(lengths)

    @property
    def graphs(self) -> Graphs | None:
        """Recordings of passes in training; None: none are made."""
        return None if self.packing is None else self.packing.graphs

    def make_room(self) -> bool:
        """Let go of recordings, and of memory that is only kept. True where there were recordings: then the same batch may
        fit, and no more are made."""
        recorded = self.graphs if self.graphs and self.graphs.num_recorded else None
        if recorded:
            recorded.stop("the memory is full")
        torch.cuda.empty_cache()  # Nothing where CUDA is not in use.
        return recorded is not None

    def __call__(self, batch: Batch) -> Any:
        """The model's output for the batch."""
        if self.deferred is None:
            return self._run(batch)
        with self.deferred.left_out():
            output = self._run(batch)
        return self.deferred.finish(output)

    def _run(self, batch: Batch) -> Any:
        arguments = {**self.task.arguments(batch), **self._no_cache}
        lengths = batch.lengths.numpy()
        if self.packing is not None and self.packing.takes(lengths):
            read = self.reads.of(batch) if self.reads else None
            if self.lender is None:
                return self.packing.run(arguments, lengths, read=read)
            assert isinstance(self.lender, BlockLender)  # Linked models run padded.
            start = self.lender.start
            if start == self.packing.num_blocks:
                return self.packing.head(self.lender.states(batch), arguments)
            states = partial(self.lender.packed, batch)
            return self.packing.run(arguments, lengths, states=states, start=start, read=read)
        with self.lender(batch) if self.lender else nullcontext():
            return self.model(**arguments)


def answering(model: PreTrainedModel, task: Task, rows: FeatureStore | Sequence[Arrays]) -> Forward | None:
    """How a model answers rows like these without padding, the last block for read tokens alone; None where its own forward
    pass is as quick: on other devices than a CPU, of few rows, and where the model cannot be run so."""
    is_able = model.device.type == "cpu" and task.evaluates_by_forward and not isinstance(model, LinkedModel)
    if not is_able or len(rows) < LEAST_ROWS:
        return None
    packing = packing_of(model)
    if packing is None:
        return None
    return Forward(model, task, packing, find_reads(packing, task, rows, answers=True))

"""The prefix cache of a run: decides whether it is used, has missing outputs computed, and lends them to batches.

What the frozen beginning of the model puts out for a row is computed once, before the first step, and read from disk
in every epoch, evaluation, run and trial. Backward never enters it. `prefix_plan` decides, this file computes and lends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from chainft.config.run import RunConfig
from chainft.data.batching import Batch
from chainft.data.example import Split
from chainft.data.prefix_store import PrefixStore
from chainft.data.store import FeatureStore
from chainft.errors import MemoryError_
from chainft.models.device import is_out_of_memory
from chainft.stages.gates import Payload, probe_inputs
from chainft.stages.linked_prefix import LinkedPrefix
from chainft.stages.prefix import BlockPrefix
from chainft.stages.prologue import find_idle
from chainft.tasks.base import Task
from chainft.train.faults import fault_point
from chainft.train.prefix_plan import PrefixPlan, plan_prefix
from chainft.train.prepare import Prepared, Progress

_TOKENS_ON_CPU = 1024
"""Tokens, padding included, that run together on a CPU: what is in the works then stays in its caches, a tenth faster
than four times as many."""


@dataclass(frozen=True)
class PrefixCache:
    """What is kept of frozen stages for the splits of a run; nothing by default."""

    lenders: Mapping[Split, Lender | LinkedLender] = field(default_factory=dict)
    facts: Mapping[str, Any] | None = None
    """What the plan says of it; None for a chain without frozen beginning."""

    @property
    def is_used(self) -> bool:
        return bool(self.lenders)

    def of_blocks(self, split: Split) -> Lender | None:
        """What is kept of a split, where the model may be divided: linked ones never are."""
        lender = self.lenders.get(split)
        assert not isinstance(lender, LinkedLender)
        return lender


def open_prefix(
    config: RunConfig,
    prepared: Prepared,
    accelerator: Accelerator,
    *,
    before: bool | None,
    progress: Progress,
    poll: Callable[[], None],
) -> PrefixCache:
    """The cache of a run, whose model has the weights that it goes on with; computes what is missing.

    `before`: whether the run that goes on used it. Raises as `plan_prefix` does, and StorageError.
    """
    plan = plan_prefix(config, prepared, accelerator, before=before)
    if not isinstance(plan, PrefixPlan):
        return PrefixCache(facts=None if plan is None else plan.facts())
    started = time.perf_counter()
    lenders: dict[Split, Lender | LinkedLender] = {}
    for split, entry in plan.entries.items():
        compute = _Compute(plan.prefix, prepared.task, prepared.stores[split], accelerator)
        store = entry.open(compute, tell=_polled(progress, poll, f"frozen stages of {split}, tokens"))
        kept = plan.prefix
        lenders[split] = LinkedLender(kept, store) if isinstance(kept, LinkedPrefix) else Lender(kept, store)
    return PrefixCache(lenders, {**plan.facts(), "opened_in_s": round(time.perf_counter() - started, 3)})


class Lender:
    """The states of one split's rows."""

    def __init__(self, kept: BlockPrefix, store: PrefixStore) -> None:
        gates, prefix = kept.gates, kept.prefix
        self.gates = gates
        self.rest = prefix.rest
        self.ends_encoder = len(gates.blocks.stacks) > 1 and prefix.span.stop == gates.blocks.stacks[0].size
        self.store = store
        probe = kept.states(probe_inputs(gates.model)).clone()
        self.idle = find_idle(gates, self.rest, self._payload(probe))

    @property
    def start(self) -> int:
        """The first block that is computed."""
        return self.rest.start

    def states(self, batch: Batch) -> Tensor:
        """(B, L, D) what goes into it."""
        return self.store.padded(batch.features).to(self.gates.model.device, non_blocking=True)

    def packed(self, batch: Batch, order: np.ndarray) -> Tensor:
        """(T, D) the same without padding, of the rows (B,) in this order."""
        found = self.store.end_to_end([batch.features[row] for row in order])
        return found.to(self.gates.model.device, non_blocking=True)

    @contextmanager
    def __call__(self, batch: Batch) -> Iterator[None]:
        states = self.states(batch)
        with ExitStack() as stack:
            for one in self.idle:
                stack.enter_context(one.left_out())
            stack.enter_context(self.gates.beginning_with(self.rest, self._payload(states)))
            yield

    def payload(self, batch: Batch) -> Payload:
        """What the stage that begins with `start` gets."""
        return self._payload(self.states(batch))

    def _payload(self, states: Tensor) -> Payload:
        return Payload(None, states) if self.ends_encoder else Payload(states)


class LinkedLender:
    """The same of linked models, whose leading stages are left out."""

    def __init__(self, kept: LinkedPrefix, store: PrefixStore) -> None:
        self.kept = kept
        self.store = store

    def __call__(self, batch: Batch) -> AbstractContextManager[None]:
        """Within the context, the model's forward pass of the batch begins after them."""
        states = self.store.padded(batch.features).to(self.kept.model.device, non_blocking=True)
        return self.kept.lent(states)


def _polled(progress: Progress, poll: Callable[[], None], name: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        poll()
        progress(name, done, total)

    return tell


@dataclass(frozen=True)
class _Compute:
    """Runs rows of a split through the prefix."""

    prefix: BlockPrefix | LinkedPrefix
    task: Task
    store: FeatureStore
    accelerator: Accelerator

    def __call__(self, rows: np.ndarray) -> Tensor:
        """(tokens, D) states of the rows, which are of like length, end to end. Raises MemoryError_ where they do not
        fit."""
        fault_point("prefix")
        most = len(rows)
        if self.prefix.model.device.type == "cpu":
            most = max(1, _TOKENS_ON_CPU // max(1, int(self.store.lengths[rows].max())))
        return torch.cat([self._states(rows[start : start + most]) for start in range(0, len(rows), most)])

    def _states(self, rows: np.ndarray) -> Tensor:
        chosen = [int(row) for row in rows]
        batch = self.task.collate([self.store[row] for row in chosen], chosen).to(self.prefix.model.device)
        try:
            with self.accelerator.autocast():
                states = self.prefix.states(batch.inputs)  # (B, L, D)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryError_(
                f"out of memory computing frozen stages for {len(rows)} rows of {states_length(batch)} tokens",
                slug="out-of-memory",
                key="cache.prefix",
                help="set cache.prefix=false, lower model.max_length or take a smaller model",
            ) from error
        return states[batch.inputs["attention_mask"].bool()].cpu()


def states_length(batch: Batch) -> int:
    """L, the padded length."""
    return int(batch.inputs["input_ids"].shape[1])

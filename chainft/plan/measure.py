"""Bytes and FLOPs of a training step at any batch and length, from steps at a few small ones.

Every tensor of a transformer has a size that is linear in the batch and at most quadratic in the length, and the same
operations follow each other at every size. So the bytes alive after each operation are a polynomial with six
coefficients, which six small steps give exactly. Letters: B batch, L length.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from chainft.data.batching import Batch
from chainft.errors import ModelError
from chainft.models.fused_loss import CHUNK_LOGITS
from chainft.plan.link_units import link_units
from chainft.plan.trace import Ghostly, Phase, Trace, Tracker
from chainft.stages.blocks import Blocks
from chainft.stages.chain import Chain
from chainft.stages.deferred_head import DeferredHead, find_deferred_head
from chainft.stages.gates import without_cache
from chainft.stages.links import LinkedModel
from chainft.stages.loss import loss_of
from chainft.tasks.base import Task

BATCHES = (2, 3)
LENGTHS = (16, 24, 32)


@dataclass(frozen=True)
class Step:
    """A training step at one batch and length; units are -1 for the embeddings, blocks, and the head, or linked stages."""

    alive: np.ndarray
    """(operations,) bytes of activations and temporaries after each operation."""
    gradients: np.ndarray
    """(operations,) bytes of the gradients of parameters."""
    num_forward: int
    """How many operations are the forward pass."""
    units: np.ndarray
    """(operations,) the unit of each."""
    flops: Mapping[tuple[int, Phase], float]
    kept: Mapping[int, float]
    """Unit -> bytes kept for the backward pass."""


MakeBatch = Callable[[int, int], Batch]
"""From batch and length to a batch."""


def measure_step(
    chain: Chain,
    task: Task,
    make_batch: MakeBatch,
    *,
    blocks: Blocks | None,
    size: tuple[int, int],
    mixed: bool,
    defers: bool = False,
) -> Step:
    """The step at `size` (batch, length); `mixed`: the forward pass in 16 bits. `blocks`: None where there are none.
    `defers`: the logits of a language model are left to the loss where it can be.

    Raises ModelError for a model whose operations depend on batch or length in a way that is no polynomial.
    """
    sizes = [(rows, length) for rows in BATCHES for length in _lengths(size[1])]
    with Ghostly():  # type: ignore[no-untyped-call]
        head = find_deferred_head(chain.model, task, make_batch(*sizes[0])) if defers else None
    traces = [trace_step(chain, task, make_batch(*one), blocks=blocks, mixed=mixed, head=head) for one in sizes]
    if len({(len(trace.alive), trace.num_forward) for trace in traces}) > 1:
        raise ModelError(
            f"{type(chain.model).__name__} computes other operations for other lengths, so its step cannot be foreseen",
            slug="cannot-plan",
            key="model.path",
        )
    weights = _weights(sizes, size)
    flops = {key for trace in traces for key in trace.flops}
    kept = {unit for trace in traces for unit in trace.kept}
    alive, logits = (
        weights @ np.array([getattr(trace, name) for trace in traces], dtype=np.float64)
        for name in ("alive", "logits")
    )
    if head is not None:
        logits_at_a_time = min(1.0, CHUNK_LOGITS / (size[0] * size[1] * head.layer.out_features))
        alive -= (1 - logits_at_a_time) * logits
    return Step(
        alive,
        np.array(traces[0].gradients, dtype=np.float64),
        traces[0].num_forward,
        np.array(traces[0].units),
        {key: float(weights @ np.array([trace.flops.get(key, 0) for trace in traces], dtype=float)) for key in flops},
        {key: float(weights @ np.array([trace.kept.get(key, 0) for trace in traces], dtype=float)) for key in kept},
    )


def _lengths(most: int) -> Sequence[int]:
    """Three small lengths that the model takes."""
    return LENGTHS if most >= LENGTHS[-1] else (most - 2, most - 1, most)


def _weights(sizes: Sequence[tuple[int, int]], size: tuple[int, int]) -> np.ndarray:
    """(sizes,) weights with which values at `sizes` add up to the value at `size`, exact for these polynomials."""

    def terms(rows: int, length: int) -> list[int]:
        return [one * other for one in (1, rows) for other in (1, length, length * length)]

    solved: np.ndarray = np.linalg.solve(np.array([terms(*one) for one in sizes], dtype=float).T, terms(*size))
    return solved


def trace_step(
    chain: Chain, task: Task, batch: Batch, *, blocks: Blocks | None, mixed: bool, head: DeferredHead | None = None
) -> Trace:
    """One forward and backward pass as the training loop does it, on this batch; `head`: as in `Forward`."""
    model = chain.model
    model.train()
    chain.conduct().begin(1, 1)  # The last step, when everything is trained that ever is.
    tracker = Tracker([*model.parameters(), *model.buffers()])
    units = link_units(tracker, model) if isinstance(model, LinkedModel) else _units(tracker, blocks)
    with units, _dropped_gradients(tracker, chain), tracker:
        with torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext():
            with nullcontext() if head is None else head.left_out():
                output = model(**task.arguments(batch), **without_cache(model))
            output = output if head is None else head.finish(output)
        if mixed:  # Accelerate hands the output on in float32.
            output = type(output)(tree_map(_in_float32, dict(output)))
        if head is not None:
            output.logits = replace(output.logits, chunk=sys.maxsize)  # All at once: how many is reckoned afterwards.
            tracker.num_words = head.layer.out_features
        loss = loss_of(task.planned(), output, batch) / 2
        tracker.num_words = None
        tracker.begin_backward()
        loss.backward()  # type: ignore[no-untyped-call]
    return tracker.trace


def _in_float32(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def _dropped_gradients(tracker: Tracker, chain: Chain) -> Iterator[None]:
    """Drop each gradient once it is there, so that no more than one takes memory here, and count it."""
    counted: set[int] = set()

    def take(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if id(parameter) not in counted:
            counted.add(id(parameter))
            tracker.take_gradient(parameter.grad)
        parameter.grad = None

    trained = [parameter for parameter in chain.model.parameters() if parameter.requires_grad]
    handles = [p.register_post_accumulate_grad_hook(take) for p in trained]  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _units(tracker: Tracker, blocks: Blocks | None) -> Iterator[None]:
    """Tell the tracker which unit computes, in both passes."""
    if blocks is None:
        yield
        return
    handles = []
    units: dict[str, list[int]] = {}
    for block in range(blocks.num_blocks):
        units.setdefault(blocks.path_of(block), []).append(block)
    for path, several in units.items():
        module = blocks.model.get_submodule(path)
        entry = _Entry(tracker, several, blocks.num_blocks)
        handles.append(module.register_forward_pre_hook(entry.enter, with_kwargs=True))
        handles.append(module.register_forward_hook(entry.leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Entry:
    """The hooks of one module that is a block, or several."""

    def __init__(self, tracker: Tracker, units: Sequence[int], num_blocks: int) -> None:
        self.tracker = tracker
        self.units = list(units)
        self.num_blocks = num_blocks
        self.calls = 0

    def enter(self, module: Any, args: Any, kwargs: Any) -> None:
        if self.tracker.phase == "backward":  # Recomputed activations.
            return
        unit = self.units[self.calls % len(self.units)]
        before, self.tracker.unit = self.tracker.unit, unit
        self.calls += 1
        received = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if unit == 0:
            self._on_gradient(received[:1], before)
        if not received[0].requires_grad:  # Nothing before is trained: what comes from there is kept for what follows.
            self.tracker.move(received)

    def leave(self, module: Any, args: Any, output: Any) -> None:
        if self.tracker.phase == "backward":
            return
        unit = self.tracker.unit
        self._on_gradient([leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)][:1], unit)
        if unit == self.num_blocks - 1:
            self.tracker.unit = self.num_blocks

    def _on_gradient(self, tensors: Sequence[Tensor], unit: int) -> None:
        """In the backward pass, `unit` computes from the moment when its output's gradient is there."""

        def switch(_: Tensor) -> None:
            self.tracker.unit = unit

        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(switch)  # type: ignore[no-untyped-call]

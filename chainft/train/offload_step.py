"""The forward and backward passes of one update of a model whose stages stream in and out.

Each stage is loaded twice, and all micro-batches go through it while it is there: upwards without activations, of which
only what stages hand on is kept; downwards, where a stage computes its activations again with the same random numbers.
Below the first stage that is trained nothing is kept, and nothing comes down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from chainft.data.batching import Batch
from chainft.stages.gates import Payload
from chainft.stages.loss import loss_of
from chainft.stages.random_state import RandomState
from chainft.train.resting import keep

if TYPE_CHECKING:
    from chainft.train.offload import Offload


@dataclass(frozen=True)
class _Before:
    """What a stage began with."""

    payload: Payload | None
    """Where it rests."""
    random: RandomState


class OffloadStep:
    """One update's passes; gradients are stored stage by stage."""

    def __init__(
        self, offload: Offload, batches: Sequence[Batch], num_targets: float, seed: Callable[[int], None]
    ) -> None:
        """`batches` are on the device. `num_targets`: what the sum of losses is divided by, not 0."""
        self._offload = offload
        self._batches = batches
        self._arguments = [offload.task.arguments(batch) for batch in batches]
        self._num_targets = num_targets
        self._seed = seed
        self._last = len(offload.spans) - 1
        self._start = offload.start_of(offload.lender)
        trained = [number for number, own in enumerate(offload.parameters) if any(one.requires_grad for one in own)]
        self._first = trained[0] if trained else self._last
        """The lowest stage with a backward pass."""
        self._before: dict[tuple[int, int], _Before] = {}
        self._gradients: dict[int, list[Tensor | None]] = {}
        """By micro-batch, of what the stage above received."""
        self._total = torch.zeros((), dtype=torch.float64, device=offload.device)

    def run(self) -> float:
        """The loss a target."""
        self._begin()
        for stage in range(self._start, self._last):
            with self._offload.loaded(stage, then=stage + 1), torch.no_grad():
                for number in range(len(self._batches)):
                    self._up(stage, number)
        for stage in range(self._last, self._first - 1, -1):
            with self._offload.loaded(stage, then=stage - 1 if stage > self._first else None):
                for number in range(len(self._batches)):
                    self._down(stage, number)
                self._offload.store_gradients(stage)
        return float(self._total)

    def _begin(self) -> None:
        lender, device = self._offload.lender, self._offload.device
        for number, batch in enumerate(self._batches):
            self._seed(number)
            payload = lender.payload(batch) if lender else None
            self._before[self._start, number] = _Before(self._rested(payload), RandomState.now(device))

    def _up(self, stage: int, number: int) -> None:
        """A micro-batch through a stage, which leaves no more than what the next one begins with."""
        offload = self._offload
        before = self._before[stage, number]
        output = self._compute(stage, number, before.payload and self._brought(before.payload))
        self._before[stage + 1, number] = _Before(self._rested(output), RandomState.now(offload.device))
        if stage < self._first:
            del self._before[stage, number]

    def _down(self, stage: int, number: int) -> None:
        """The activations of a micro-batch once more, and its gradients."""
        before = self._before.pop((stage, number))
        payload = before.payload and self._brought(before.payload)
        if payload and stage > self._first:
            payload = payload.apart()
        output = self._compute(stage, number, payload, random=before.random)
        outputs: tuple[Tensor, ...]
        gradients: list[Tensor | None]
        if stage == self._last:
            loss = loss_of(self._offload.task, output, self._batches[number]) / self._num_targets
            self._total += loss.detach()
            outputs, gradients = (loss,), [None]
        else:
            outputs, gradients = output.tensors(), self._gradients.pop(number)
        pairs = [
            (tensor, None if gradient is None else gradient.to(tensor.device))
            for tensor, gradient in zip(outputs, gradients, strict=True)
            if tensor.requires_grad and (gradient is not None or stage == self._last)
        ]
        if pairs:
            torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])
        if payload and stage > self._first:
            place = self._offload.passing
            self._gradients[number] = [
                None if leaf.grad is None else keep(place, leaf.grad) for leaf in payload.tensors()
            ]

    def _compute(self, stage: int, number: int, payload: Payload | None, random: RandomState | None = None) -> Any:
        offload = self._offload
        (random or self._before[stage, number].random).restore()
        with offload.autocast():
            return offload.gates.run(offload.spans[stage], payload, self._arguments[number])

    def _rested(self, payload: Payload | None) -> Payload | None:
        return payload and _each(payload, lambda tensor: keep(self._offload.passing, tensor))

    def _brought(self, payload: Payload) -> Payload:
        return _each(payload, lambda tensor: tensor.to(self._offload.device, non_blocking=True))


def _each(payload: Payload, change: Callable[[Tensor], Tensor]) -> Payload:
    hidden, encoder = (None if one is None else change(one) for one in (payload.hidden, payload.encoder))
    return Payload(hidden, encoder)

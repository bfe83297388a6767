"""The passes of a model's blocks in training, recorded once for each size of a batch and played by the GPU itself.

A block is some hundred kernels, which the host starts one by one; for batches of a few thousand tokens that takes it
longer than the GPU computes. A CUDA graph starts all of them at once (Ng et al. 2021, "Accelerating PyTorch with CUDA
Graphs"). It is for one size, so rows end to end are rounded up by rows of filler, to few sizes; nothing is read of the
filler, and what flows back to it is zero. Each size runs as it is when it first comes, which compiles and loads all that
it needs, and is recorded when it comes again. That what is played gives the same hidden states and gradients is tried.

Letters: B rows, T tokens of all rows, S slots (T rounded up), D width.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from chainft.models.device import is_out_of_memory
from chainft.stages.random_state import RandomState
from chainft.stages.recording import (
    Known,
    Passes,
    Places,
    Recorder,
    Recording,
    Run,
    Slots,
    ends_of,
    expected_of,
    slots_for,
)

logger = logging.getLogger(__name__)

MOST = 64
"""Sizes that are recorded; those that come later run as they are."""
NO_LIMIT = 1 << 60
_TOLERANCE = 0.03
"""Most difference of hidden states and gradients in 16 bits, beside their size; sums on a GPU have no fixed order."""
_FLOOR = 0.02
"""Share of the size of all gradients that is added to that of one: some biases have gradients that are all rounding."""
_MOST_UNSHOWN = 3
"""Trials of a kind that are not finite; more would take time for nothing."""


@dataclass(frozen=True)
class _Kind:
    """What a recording depends on beside the sizes: weights that are somewhere else or frozen are another kind."""

    span: tuple[int, int]
    weights: tuple[tuple[int, bool], ...]
    """Address of each parameter, and whether it is trained."""
    takes_gradient: bool
    """Whether the hidden states that come in have a gradient."""


@dataclass(frozen=True)
class _Size:
    slots: int
    ends: int
    dtype: torch.dtype


class Graphs:
    """Runs spans of blocks of one model in training, from recordings where there are."""

    def __init__(self, model: nn.Module, recorder: Recorder, *, longest: int, most: int = NO_LIMIT) -> None:
        """`longest`: tokens of the longest row that will come; `most`: of a batch that is recorded."""
        self.longest = longest
        self.most = most
        self._model = model
        self._parameters = list(model.parameters())
        self._recorder = recorder
        self._seen: Counter[tuple[_Kind, _Size]] = Counter()
        self._recordings: dict[tuple[_Kind, _Size], Recording] = {}
        self._known: dict[_Kind, Known | None] = {}
        """What was found out; None: nothing is trained."""
        self._unshown: Counter[_Kind] = Counter()
        """Trials that showed nothing."""
        self._places = Places()
        self._gradients: dict[nn.Parameter, Tensor] = {}
        """Where their gradients are summed up, for recordings of all sizes."""
        self.is_off = False
        self.is_idle = False
        """Whether passes came that have nothing to train."""
        self.number = 0
        """Of the forward pass that was played last."""

    @property
    def num_recorded(self) -> int:
        """Sizes that are recorded."""
        return len(self._recordings)

    def takes(self, tokens: int) -> bool:
        """Whether a pass of so many tokens now is one of training, and small."""
        return not self.is_off and tokens <= self.most and torch.is_grad_enabled() and self._model.training

    def __call__(
        self, span: tuple[int, int], run: Run, hidden: Tensor, inputs: Mapping[str, Tensor], lengths: np.ndarray
    ) -> Tensor:
        """(1, T, D) after the blocks `span[0]` to `span[1]` (without it), which `run` runs.

        `hidden` (1, T, D), `inputs` (1, T), `lengths` (B,) of the rows as they stand. Raises RuntimeError in the backward
        pass of one forward pass where another one was played since.
        """
        slots = slots_for(hidden.shape[1])
        ends = ends_of(lengths, slots, self.longest)
        weights = tuple((one.data_ptr(), one.requires_grad) for one in self._parameters)
        kind = _Kind(span, weights, hidden.requires_grad)
        size = _Size(slots, len(ends), hidden.dtype)
        found = self._recordings.get((kind, size))
        if found is None:
            self._seen[kind, size] += 1
            if self._seen[kind, size] > 1:
                found = self._record(kind, size, run, hidden, inputs, ends)
        if found is None:
            filled = Slots.filled(hidden, inputs, ends, slots)
            return run(filled.hidden, filled.inputs, filled.ends)[:, : hidden.shape[1]]
        found.slots.fill(hidden, inputs, ends)
        with_gradient = found.weights[0] if found.weights else hidden
        played: Tensor = _Played.apply(self, found, hidden, with_gradient)  # type: ignore[no-untyped-call]
        return played

    def ready_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Let the gradients of the parameters stand where recordings add to them."""
        fresh = []
        for one in weights:
            place = self._gradients[one]
            if one.grad is None:
                fresh.append(place)
            elif one.grad.data_ptr() != place.data_ptr():
                place.copy_(one.grad)
            one.grad = place
        if fresh:
            torch._foreach_zero_(fresh)

    def stop(self, because: str) -> None:
        """Let go of all recordings and of their memory, make none any more, and tell the user."""
        self._recordings.clear()
        self._gradients.clear()
        self._known.clear()
        self._places = Places()
        self.number += 1
        self.is_off = True
        logger.warning(
            "blocks run without CUDA graphs, which takes longer for small batches: %s (train.cuda_graphs=false does not "
            "try)",
            because,
        )

    def _record(
        self, kind: _Kind, size: _Size, run: Run, hidden: Tensor, inputs: Mapping[str, Tensor], ends: np.ndarray
    ) -> Recording | None:
        """A recording, tried where it is the first of its kind; None where none is made. That none can be is told."""
        if self.is_off or (kind in self._known and self._known[kind] is None):
            return None
        # What other weights were trained with does not come again. They are let go of together: memory is shared.
        if any(key[0].weights != kind.weights for key in self._recordings):
            self._recordings.clear()
        if len(self._recordings) >= MOST:
            return None
        if not self._recordings:
            self._recorder.renew()
        random = RandomState.now(hidden.device)
        try:
            slots = Slots.of(hidden, inputs, ends, size.slots, self._places)
            found, because = self._tried(kind, run, slots, hidden.shape[1], random)
            if found is not None:
                self._recordings[kind, size] = found
            if because is None:
                return found
        except RuntimeError as error:
            because = _reason(error)
            # Leave the handler first: its traceback holds the tensors that filled the memory.
        finally:
            random.restore()
        self.stop(because)
        self._recorder.recover()
        random.restore()
        return None

    def _tried(
        self, kind: _Kind, run: Run, slots: Slots, tokens: int, random: RandomState
    ) -> tuple[Recording | None, str | None]:
        """A recording, or why none can be made; neither where nothing is trained, or this batch cannot show it."""
        expected = None
        if kind not in self._known:
            trained = [one for one in self._parameters if one.requires_grad]
            with self._recorder.alert():
                expected = expected_of(run, slots, trained, tokens)
            if expected is not None and not expected.is_finite:
                self._unshown[kind] += 1
                return None, "a trial gives no finite numbers" if self._unshown[kind] == _MOST_UNSHOWN else None
            self._known[kind] = None if expected is None else Known(list(expected.weights), expected.out.dtype)
        known = self._known[kind]
        if known is None:
            return None, None
        for one in known.weights:
            if one not in self._gradients:
                self._gradients[one] = torch.zeros_like(one)
        gradients = [self._gradients[one] for one in known.weights]
        found = Recording(run, slots, known, gradients, self._recorder, self._places)
        random.restore()
        if expected is None or self._gives(found, expected):
            return found, None
        return None, "it gives other numbers"

    def _gives(self, found: Recording, expected: Passes) -> bool:
        """Whether what is played is what was computed; gradients that are summed up stay as they are."""
        used = {
            one: place.clone()
            for one, place in zip(found.weights, found.gradients, strict=True)
            if one.grad is not None and one.grad.data_ptr() == place.data_ptr()
        }
        try:
            for place in found.gradients:
                place.zero_()
            self.number += 1
            found.play_forward()
            found.upstream.copy_(expected.upstream)
            found.play_backward()
            same = _close(found.out, expected.out)
            if found.downstream is not None and expected.downstream is not None:
                same &= _close(found.downstream, expected.downstream)
            floor = _FLOOR * expected.size
            pairs = zip(found.weights, found.gradients, strict=True)
            return same and all(_close(place, expected.weights[one], floor) for one, place in pairs)
        finally:
            for one, kept in used.items():
                self._gradients[one].copy_(kept)


class _Played(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, graphs: Graphs, recording: Recording, hidden: Tensor, _: Tensor) -> Tensor:
        """The weight beside `hidden` is there so that the result has a gradient."""
        recording.play_forward()
        graphs.number += 1
        ctx.graphs, ctx.recording, ctx.number = graphs, recording, graphs.number
        return recording.out.detach()[:, : hidden.shape[1]]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor | None, None]:
        recording: Recording = ctx.recording
        if ctx.number != ctx.graphs.number:
            raise RuntimeError("the blocks ran again before the backward pass: give train.cuda_graphs=false")
        tokens = gradient.shape[1]
        recording.upstream[:, :tokens].copy_(gradient)
        recording.upstream[:, tokens:].zero_()
        ctx.graphs.ready_gradients(recording.weights)
        recording.play_backward()
        downstream = recording.downstream
        return None, None, None if downstream is None else downstream[:, :tokens], None


def _close(found: Tensor, expected: Tensor, floor: float = 0.0) -> bool:
    """Not where there is a NaN."""
    difference, size = float((found - expected).double().norm()), float(expected.double().norm())
    return difference <= _TOLERANCE * (size + floor)


def _reason(error: RuntimeError) -> str:
    """Where work cannot be recorded, that the recording ended badly is told of it in the end."""
    first = error.__context__ if isinstance(error.__context__, RuntimeError) else error
    return "the memory is full" if is_out_of_memory(first) else str(first).splitlines()[0]

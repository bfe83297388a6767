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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from chainft.models.device import is_out_of_memory, to_device
from chainft.stages.random_state import RandomState

logger = logging.getLogger(__name__)

MOST = 64
"""Sizes that are recorded; those that come later run as they are."""
_LARGE = 1 << 30
_LEAST_STEP = 128
_STEPS = 16
"""Sizes between a power of two and the next."""
_ROWS_STEP = 16
_TOLERANCE = 0.03
"""Most difference of hidden states and gradients in 16 bits, beside their size; sums on a GPU have no fixed order."""

Run = Callable[[Tensor, Mapping[str, Tensor], Tensor], Tensor]
"""From hidden states (1, S, D), the model's inputs (1, S) and the ends of rows, int32, to hidden states (1, S, D)."""


class Recorder(Protocol):
    """Records work on a device."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does the same work again, on the same memory. Raises RuntimeError for work that cannot be recorded."""
        ...

    def recover(self) -> None:
        """Make the device usable again after an error."""
        ...


class CudaRecorder:
    """Records CUDA graphs, all of which share their memory: of one pass is nothing left when the next begins."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        torch.clear_autocast_cache()  # Rounded weights in it would be those of now forever.
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work()
        finally:
            torch.clear_autocast_cache()
        replay: Callable[[], None] = graph.replay
        return replay

    def recover(self) -> None:
        """A recording that broke off leaves the generator of random numbers in it; one that ends takes it out."""
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.zeros(1, device="cuda")


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

    def __init__(self, model: nn.Module, recorder: Recorder, *, longest: int, most: int = _LARGE) -> None:
        """`longest`: tokens of the longest row that will come; `most`: of a batch that is recorded."""
        self.longest = longest
        self.most = most
        self._model = model
        self._parameters = list(model.parameters())
        self._recorder = recorder
        self._seen: Counter[tuple[_Kind, _Size]] = Counter()
        self._recordings: dict[tuple[_Kind, _Size], Recording] = {}
        self._reached: dict[_Kind, list[nn.Parameter]] = {}
        """The parameters that a pass gives a gradient, where that was tried."""
        self._gradients: dict[nn.Parameter, Tensor] = {}
        """Where their gradients are summed up, for recordings of all sizes."""
        self.is_off = False
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
        ends = self._ends(lengths, slots)
        weights = tuple((one.data_ptr(), one.requires_grad) for one in self._parameters)
        kind = _Kind(span, weights, hidden.requires_grad)
        size = _Size(slots, len(ends), hidden.dtype)
        found = self._recordings.get((kind, size))
        if found is None:
            self._seen[kind, size] += 1
            if self._seen[kind, size] > 1 and len(self._recordings) < MOST and not self.is_off:
                found = self._record(kind, run, Slots.of(hidden, inputs, ends, slots), hidden.shape[1])
                if found is not None:
                    self._recordings[kind, size] = found
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

    def _ends(self, lengths: np.ndarray, slots: int) -> np.ndarray:
        """0, the end of each row, those of rows of filler, and those of rows without tokens up to a round number."""
        ends = np.cumsum([0, *lengths])
        most = -(-slots // _STEPS // self.longest) + -(-_LEAST_STEP // self.longest)
        count = -(-(len(ends) + most) // _ROWS_STEP) * _ROWS_STEP
        more = np.minimum(ends[-1] + self.longest * np.arange(1, count - len(ends) + 1), slots)
        return np.concatenate([ends, more]).astype(np.int32)

    def _record(self, kind: _Kind, run: Run, slots: Slots, tokens: int) -> Recording | None:
        """A recording, tried where it is the first of its kind; None where that is not possible, which is told, and where
        nothing is trained."""
        random = RandomState.now(slots.hidden.device)
        because = "it gives other numbers"
        try:
            expected = None
            if kind not in self._reached:
                trained = [one for one in self._parameters if one.requires_grad]
                expected = _expected(run, slots, trained, tokens)
                if expected is None:
                    return None
                self._reached[kind] = [one for one, gradient in expected.weights.items() if gradient is not None]
            weights = self._reached[kind]
            for one in weights:
                if one not in self._gradients:
                    self._gradients[one] = torch.zeros_like(one)
            found = Recording(run, slots, weights, [self._gradients[one] for one in weights], self._recorder)
            random.restore()
            if expected is None or self._gives(found, expected):
                random.restore()
                return found
        except RuntimeError as error:
            # Where work cannot be recorded, that the recording ended badly is told of it in the end.
            first = error.__context__ if isinstance(error.__context__, RuntimeError) else error
            because = "the memory is full" if is_out_of_memory(first) else str(first).splitlines()[0]
            # Leave the handler first: its traceback holds the tensors that filled the memory.
        self._recordings.clear()
        self.is_off = True
        self._recorder.recover()
        random.restore()
        logger.warning(
            "blocks run without CUDA graphs, which takes longer for small batches: %s (train.cuda_graphs=false does not "
            "try)",
            because,
        )
        return None

    def _gives(self, found: Recording, expected: _Passes) -> bool:
        """Whether what is played is what was computed; gradients that are summed up stay as they are."""
        kept = [one.clone() for one in found.gradients]
        for one in found.gradients:
            one.zero_()
        found.play_forward()
        found.upstream.copy_(expected.upstream)
        found.play_backward()
        pairs = [(found.out, expected.out)]
        if found.downstream is not None and expected.downstream is not None:
            pairs.append((found.downstream, expected.downstream))
        gradients = [gradient for gradient in expected.weights.values() if gradient is not None]
        if gradients:
            pairs.append((_flat(found.gradients), _flat(gradients)))
        for place, one in zip(found.gradients, kept, strict=True):
            place.copy_(one)
        return all(_close(one.double(), other.double()) for one, other in pairs)


def slots_for(tokens: int) -> int:
    """Slots for so many tokens: 6 % more or 127 at most, and few different numbers.

    >>> slots_for(11_171), slots_for(300)
    (11264, 384)
    """
    step = max(_LEAST_STEP, (1 << tokens.bit_length() - 1) // _STEPS)
    return -(-tokens // step) * step


@dataclass(frozen=True)
class Slots:
    """What goes into a pass."""

    hidden: Tensor
    """(1, S, D)"""
    inputs: Mapping[str, Tensor]
    """(1, S) each"""
    ends: Tensor
    """int32"""

    @classmethod
    def of(cls, hidden: Tensor, inputs: Mapping[str, Tensor], ends: np.ndarray, slots: int) -> Slots:
        """Memory that can be filled again and again, filled."""
        made = cls(
            hidden.new_zeros(1, slots, hidden.shape[2]),
            {name: one.new_zeros(1, slots) for name, one in inputs.items()},
            torch.zeros(len(ends), dtype=torch.int32, device=hidden.device),
        )
        made.fill(hidden, inputs, ends)
        made.hidden.requires_grad_(hidden.requires_grad)
        return made

    @classmethod
    def filled(cls, hidden: Tensor, inputs: Mapping[str, Tensor], ends: np.ndarray, slots: int) -> Slots:
        """The same as it comes, with its gradient."""
        more = slots - hidden.shape[1]
        return cls(
            torch.cat([hidden, hidden[:, :1].detach().expand(1, more, -1)], dim=1),
            {name: nn.functional.pad(one, (0, more)) for name, one in inputs.items()},
            to_device(torch.from_numpy(ends), hidden.device),
        )

    @torch.no_grad()
    def fill(self, hidden: Tensor, inputs: Mapping[str, Tensor], ends: np.ndarray) -> None:
        """Put in another batch of the size. Filler is the first token again: zeros have no variance to divide by, and what
        is left of the batch before may be no number."""
        tokens = hidden.shape[1]
        self.hidden[:, :tokens].copy_(hidden)
        self.hidden[:, tokens:].copy_(hidden[:, :1])
        for name, one in inputs.items():
            self.inputs[name][:, :tokens].copy_(one)
        self.ends.copy_(to_device(torch.from_numpy(ends), hidden.device))


class Recording:
    """A forward and a backward pass of one size."""

    def __init__(
        self,
        run: Run,
        slots: Slots,
        weights: Sequence[nn.Parameter],
        gradients: list[Tensor],
        recorder: Recorder,
    ) -> None:
        """`gradients`: where those of the weights are added up."""
        self.slots = slots
        self.weights = weights
        self.gradients = gradients
        self.out: Tensor = slots.hidden
        """(1, S, D) hidden states that the forward pass gives."""
        self.downstream: Tensor | None = None
        """(1, S, D) gradient of what goes in."""
        self._live: Tensor | None = None

        def forward() -> None:
            with torch.enable_grad():
                self._live = run(slots.hidden, slots.inputs, slots.ends)
            self.out = self._live.detach()

        def backward() -> None:
            assert self._live is not None
            wanted = [slots.hidden, *weights] if slots.hidden.requires_grad else [*weights]
            found = list(torch.autograd.grad(self._live, wanted, self.upstream))
            if slots.hidden.requires_grad:
                self.downstream = found.pop(0)
            if gradients:
                torch._foreach_add_(gradients, found)

        self.play_forward = recorder.record(forward)
        self.upstream = torch.zeros_like(self.out)
        """(1, S, D) gradient of `out`."""
        self.play_backward = recorder.record(backward)
        self._live = None


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


@dataclass(frozen=True)
class _Passes:
    """What a forward and a backward pass gave."""

    out: Tensor
    upstream: Tensor
    """The gradient that went in, made up."""
    downstream: Tensor | None
    weights: Mapping[nn.Parameter, Tensor | None]


def _expected(run: Run, slots: Slots, trained: Sequence[nn.Parameter], tokens: int) -> _Passes | None:
    """Both passes as they are, for a gradient of the tokens that draws no random numbers; None where there is no backward
    pass."""
    hidden = slots.hidden.detach().clone().requires_grad_(slots.hidden.requires_grad)
    with torch.enable_grad():
        out = run(hidden, slots.inputs, slots.ends)
    if not out.requires_grad:
        return None
    upstream = torch.arange(out.numel(), device=out.device).double().sin().view_as(out).to(out.dtype)
    upstream[:, tokens:] = 0.0
    wanted = [hidden, *trained] if hidden.requires_grad else [*trained]
    found = list(torch.autograd.grad(out, wanted, upstream, allow_unused=True))
    downstream = found.pop(0) if hidden.requires_grad else None
    return _Passes(out.detach(), upstream, downstream, dict(zip(trained, found, strict=True)))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """One row: single biases have gradients that are all rounding."""
    return torch.cat([one.flatten().float() for one in tensors])


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())

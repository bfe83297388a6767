"""A forward and a backward pass of blocks on a device, recorded to be done again on the same memory.

Letters: B rows, T tokens of all rows, S slots (T rounded up), D width.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from chainft.models.device import to_device

_LEAST_STEP = 128
_STEPS = 16
"""Sizes between a power of two and the next."""
_ROWS_STEP = 16

Run = Callable[[Tensor, Mapping[str, Tensor], Tensor], Tensor]
"""From hidden states (1, S, D), the model's inputs (1, S) and the ends of rows, int32, to hidden states (1, S, D)."""


class Recorder(Protocol):
    """Records work on a device."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """What does the same work again, on the same memory. Raises RuntimeError for work that cannot be recorded."""
        ...

    def renew(self) -> None:
        """Take other memory for what is recorded from now on; of what was recorded before nothing may be played."""
        ...

    def recover(self) -> None:
        """Make the device usable again after an error."""
        ...

    def alert(self) -> AbstractContextManager[None]:
        """Within, work that waits for the device raises RuntimeError: recording it would break off, which leaves torch's
        memory in disorder."""
        ...


class CudaRecorder:
    """Records CUDA graphs, all of which share their memory: of one pass is nothing left when the next begins."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        torch.clear_autocast_cache()  # Rounded weights in it would be those of now forever.
        try:
            # Where a recording breaks off, torch does not go back to the stream of before.
            before = torch.cuda.stream(torch.cuda.current_stream())
            with before, torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work()
        finally:
            torch.clear_autocast_cache()
        replay: Callable[[], None] = graph.replay
        return replay

    def recover(self) -> None:
        """A recording that broke off leaves the generator of random numbers in it; one that ends takes it out."""
        with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
            torch.zeros(1, device="cuda")

    @contextmanager
    def alert(self) -> Iterator[None]:
        before = torch.cuda.get_sync_debug_mode()
        _set_sync_debug_mode("error")
        try:
            yield
        finally:
            _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That it does not find all that waits.
        torch.cuda.set_sync_debug_mode(mode)


def slots_for(tokens: int) -> int:
    """Slots for so many tokens: a sixteenth more, or 127, at most, and few different numbers.

    >>> slots_for(11_171), slots_for(300)
    (11264, 384)
    """
    step = max(_LEAST_STEP, (1 << tokens.bit_length() - 1) // _STEPS)
    return -(-tokens // step) * step


def ends_of(lengths: np.ndarray, slots: int, longest: int) -> np.ndarray:
    """0, the end of each row, those of rows of filler, and those of rows without tokens up to a round number."""
    ends = np.cumsum([0, *lengths])
    most = -(-slots // _STEPS // longest) + -(-_LEAST_STEP // longest)
    count = -(-(len(ends) + most) // _ROWS_STEP) * _ROWS_STEP
    more = np.minimum(ends[-1] + longest * np.arange(1, count - len(ends) + 1), slots)
    return np.concatenate([ends, more]).astype(np.int32)


class Places:
    """Memory that recordings of all sizes use, one after the other."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, torch.dtype], Tensor] = {}

    def of(self, name: str, slots: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """(1, slots, width), contiguous, that all who give this name and type share, as far as it reaches.

        Its strides are those of any tensor of the shape: compiled blocks would be compiled anew for others.
        """
        size, key = slots * width, (name, dtype)
        if key not in self._made or self._made[key].numel() < size:
            self._made[key] = torch.zeros(1 << (size - 1).bit_length(), dtype=dtype, device=device)
        return self._made[key][:size].view(1, slots, width).detach()


@dataclass(frozen=True)
class Known:
    """Of a kind."""

    weights: Sequence[nn.Parameter]
    """Those that a pass gives a gradient."""
    dtype: torch.dtype
    """Of the hidden states that come out."""


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
    def of(cls, hidden: Tensor, inputs: Mapping[str, Tensor], ends: np.ndarray, slots: int, places: Places) -> Slots:
        """Memory that can be filled again and again, filled."""
        made = cls(
            places.of("in", slots, hidden.shape[2], hidden.dtype, hidden.device),
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
        known: Known,
        gradients: list[Tensor],
        recorder: Recorder,
        places: Places,
    ) -> None:
        """`gradients`: where those of the weights are added up."""
        self.slots = slots
        self.weights = weights = known.weights
        self.gradients = gradients
        _, count, width = slots.hidden.shape
        device, takes_gradient = slots.hidden.device, slots.hidden.requires_grad
        self.out = places.of("out", count, width, known.dtype, device)
        """(1, S, D) hidden states that the forward pass gives."""
        self.upstream = places.of("upstream", count, width, known.dtype, device)
        """(1, S, D) their gradient."""
        self.downstream = places.of("downstream", count, width, slots.hidden.dtype, device) if takes_gradient else None
        """(1, S, D) the gradient of what goes in."""
        live: list[Tensor] = []

        def forward() -> None:
            with torch.enable_grad():
                live[:] = [run(slots.hidden, slots.inputs, slots.ends)]
            self.out.copy_(live[0].detach())

        def backward() -> None:
            found = _differentiate(live.pop(), [*([slots.hidden] if takes_gradient else []), *weights], self.upstream)
            if self.downstream is not None:
                self.downstream.copy_(found.pop(0))
            if gradients:
                torch._foreach_add_(gradients, found)

        self.play_forward = recorder.record(forward)
        self.play_backward = recorder.record(backward)


@dataclass(frozen=True)
class Passes:
    """What a forward and a backward pass gave."""

    out: Tensor
    upstream: Tensor
    """The gradient that went in, made up."""
    downstream: Tensor | None
    weights: Mapping[nn.Parameter, Tensor]

    @property
    def size(self) -> float:
        """Norm of the gradients of all weights."""
        return math.sqrt(sum(float(one.double().square().sum()) for one in self.weights.values()))

    @property
    def is_finite(self) -> bool:
        tensors = (self.out, *([] if self.downstream is None else [self.downstream]))
        return math.isfinite(self.size) and all(bool(one.isfinite().all()) for one in tensors)


def expected_of(run: Run, slots: Slots, trained: Sequence[nn.Parameter], tokens: int) -> Passes | None:
    """Both passes as they are, for a gradient of the tokens that draws no random numbers; None where there is no backward
    pass."""
    hidden = slots.hidden.detach().clone().requires_grad_(slots.hidden.requires_grad)
    with torch.enable_grad():
        out = run(hidden, slots.inputs, slots.ends)
    if not out.requires_grad:
        return None
    upstream = torch.arange(out.numel(), device=out.device).double().sin().view_as(out).to(out.dtype)
    upstream[:, tokens:] = 0.0
    found = _differentiate(out, [*([hidden] if hidden.requires_grad else []), *trained], upstream, allow_unused=True)
    downstream = found.pop(0) if hidden.requires_grad else None
    weights = {one: gradient for one, gradient in zip(trained, found, strict=True) if gradient is not None}
    return Passes(out.detach(), upstream, downstream, weights)


def _differentiate(
    out: Tensor, wanted: Sequence[Tensor], upstream: Tensor, *, allow_unused: bool = False
) -> list[Any]:
    """A gradient for each, None where it has none and that is allowed; in the types that the forward pass had, as all
    backward passes."""
    with torch.autocast(out.device.type, enabled=False):
        return list(torch.autograd.grad(out, wanted, upstream, allow_unused=allow_unused))

"""Trains a model on one device that need not hold it: stages stream in and out, one after the other.

Parameters, gradients and optimizer state rest in the CPU's memory or on disk (`chainft.train.resting`). While a stage
computes, it alone has its parameters; all others are *ghosts*, zeros that take no memory. Parameters stay the same
objects throughout, so optimizer, chain and ties know them as in any other run. The optimizer updates where things rest:
its state never comes to a GPU. `offload_step` does the forward and backward passes of an update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chainft.data.batching import Batch
from chainft.stages.families import check_start
from chainft.stages.gates import Gates, Payload
from chainft.stages.owners import live
from chainft.stages.spans import Span
from chainft.train.offload_step import OffloadStep
from chainft.train.optimizer_state import pack_optimizer, restore_optimizer
from chainft.train.resting import InMemory, OnDisk, Resting, keep, portions
from chainft.train.stage_calls import called_by_stages

if TYPE_CHECKING:
    from chainft.tasks.base import Task
    from chainft.train.prefix_cache import Lender


class Offload:
    """A model whose stages are loaded for the time of their use. Made before the optimizer."""

    def __init__(
        self,
        model: PreTrainedModel,
        task: Task,
        spans: Iterable[Span],
        *,
        folder: Path | None,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        """`model` is on the CPU, `device` is where it computes. `spans`: the stages, from embeddings to head; `folder`:
        for files in which things rest; None: they do so in the CPU's memory.

        Raises ModelError for a cut or a family that is refused, StorageError where the disk has no room.
        """
        self.model = model
        self.task = task
        self.device = device
        self.autocast = autocast
        self.gates = Gates(model)
        self.spans = tuple(spans)
        self.lender: Lender | None = None
        """What is kept of frozen stages for training; these are not loaded then."""
        for span in self.spans:
            check_start(model, span)
        self.place: Resting = OnDisk(folder) if folder else InMemory()
        self.passing: Resting = OnDisk(folder) if folder else InMemory()
        """What stages hand on rests there until the end of a step."""
        named = dict(model.named_parameters(remove_duplicate=False))
        self.parameters: list[list[nn.Parameter]] = [
            list({id(named[name]): named[name] for name in sorted(live(self.gates, span))}.values())
            for span in self.spans
        ]
        """Of each stage, what it computes with."""
        self._zeros: dict[torch.dtype, Tensor] = {}
        self._homes: dict[nn.Parameter, Tensor] = {}
        self.gradients: dict[nn.Parameter, Tensor] = {}
        """Memory for gradients, where they rest."""
        self.received: dict[nn.Parameter, None] = {}
        """Parameters that have a gradient in this step."""
        self._loader = _Streams(device) if device.type == "cuda" else None
        for parameter in model.parameters():
            self._homes[parameter] = keep(self.place, parameter)
            parameter.data = self._ghost(parameter)
        self._move_buffers(device)

    def gradient(
        self, batches: Sequence[Batch], num_targets: float, *, seed: Callable[[int], None], num_idle: int = 0
    ) -> float:
        """Compute the gradients of all micro-batches anew, where they rest; returns the loss a target.

        `seed(micro_batch)` seeds torch. `num_idle` is 0: no other process waits.
        """
        if num_idle:
            raise ValueError("one process alone has no idle micro-batches")
        self.received.clear()
        moved = [batch.to(self.device) for batch in batches]
        try:
            return OffloadStep(self, moved, num_targets, seed).run()
        finally:
            for parameter in self.model.parameters():
                parameter.grad = None
            self._wait()
            self.passing.clear()

    def clip(self, limit: float | None) -> float:
        """Clip the gradient of the whole model to a norm; returns the norm before, as torch's clip_grad_norm_ does."""
        norms = []
        for parameter in self.received:
            norms.append(torch.linalg.vector_norm(self.gradients[parameter]))
            self.place.release([self.gradients[parameter]])
        norm = float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
        if limit is not None and norm > limit:
            for parameter in self.received:
                self.gradients[parameter].mul_(limit / (norm + 1e-6))
                self.place.release([self.gradients[parameter]])
        return norm

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the parameters that have a gradient, a portion at a time."""
        received = list(self.received)
        for numbers in portions([self._homes[one] for one in received]):
            chosen = [received[number] for number in numbers]
            for parameter in chosen:
                parameter.data, parameter.grad = self._homes[parameter], self.gradients[parameter]
            try:
                optimizer.step()
            finally:
                for parameter in chosen:
                    parameter.grad = None
                    parameter.data = self._ghost(parameter)
            for parameter in chosen:
                resting = self._rested(optimizer.state[parameter])
                self.place.release([self._homes[parameter], self.gradients[parameter], *resting])
            self.place.settle()

    def infer(self, batch: Batch, lender: Lender | None = None) -> Any:
        """The output that the whole model would give for a batch, from where kept stages end."""
        moved = batch.to(self.device)
        with _without_graph():
            payload = lender.payload(moved) if lender else None
            return self._run(self.start_of(lender), payload, self.task.arguments(moved))

    def forward_like(self, **arguments: Any) -> Any:
        """As the whole model is called."""
        with _without_graph():
            return self._run(0, None, arguments)

    def gathered(self) -> AbstractContextManager[None]:
        """Within the context the model itself can be called and writes texts."""
        return called_by_stages(self.model, self.forward_like)

    def rest(self) -> None:
        """Take everything out of the process that was looked at where it rests, as a checkpoint is made of it."""
        self.place.release_all()

    def state(self) -> dict[str, Tensor]:
        """The whole model's state, where it rests."""
        with self._at_home():
            return dict(self.model.state_dict())

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Give the model the whole model's weights."""
        with self._at_home(), torch.no_grad():
            for name, mine in self.model.state_dict().items():
                mine.copy_(state[name])
                self.place.release([mine])

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """As `pack_optimizer`."""
        return pack_optimizer(optimizer, self.model)

    def restore_optimizer(
        self, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], json: Mapping[str, Any]
    ) -> None:
        """As the function of this name. Raises CheckpointError where it does not fit."""
        with self._at_home():
            restore_optimizer(optimizer, self.model, tensors, json, copy=lambda one: keep(self.place, one))

    def dissolve(self) -> None:
        """Leave a plain model on the CPU, for writing it: its parameters stay where they rest."""
        for parameter, home in self._homes.items():
            parameter.data = home
        self._move_buffers(torch.device("cpu"))

    def start_of(self, lender: Lender | None) -> int:
        """The first stage that is computed."""
        if lender is None:
            return 0
        starts = [number for number, span in enumerate(self.spans) if span.start == lender.start and span.blocks]
        return starts[0] if starts else len(self.spans) - 1

    @contextmanager
    def loaded(self, number: int, *, then: int | None) -> Iterator[None]:
        """Within the context a stage has its parameters; `then`: the stage that is needed next, which begins to come."""
        parameters = self.parameters[number]
        homes = [self._homes[one] for one in parameters]
        here = self._loader.take(number, homes) if self._loader else homes
        for parameter, tensor in zip(parameters, here, strict=True):
            parameter.data = tensor
        del here
        if then is not None:
            coming = [self._homes[one] for one in self.parameters[then]]
            self.place.expect(coming)
            if self._loader:
                self._loader.fetch(then, coming)
        try:
            yield
        finally:
            for parameter in parameters:
                parameter.data = self._ghost(parameter)
            self.place.release(homes)
            self.place.settle()

    def store_gradients(self, number: int) -> None:
        """Let the gradients that a loaded stage's parameters have rest, added to what other stages gave."""
        for parameter in self.parameters[number]:
            gradient, parameter.grad = parameter.grad, None
            if gradient is None:
                continue
            if parameter not in self.gradients:
                self.gradients[parameter] = self.place.empty_like(self._homes[parameter])
            home = self.gradients[parameter]
            if parameter in self.received:
                home.add_(gradient.cpu())
            else:
                home.copy_(gradient, non_blocking=True)
            self.received[parameter] = None
            self.place.release([home])

    def _run(self, start: int, payload: Payload | None, arguments: Mapping[str, Any]) -> Any:
        last = len(self.spans) - 1
        output: Any = payload
        try:
            for number in range(start, last + 1):
                with self.loaded(number, then=number + 1 if number < last else None), self.autocast():
                    output = self.gates.run(self.spans[number], output, arguments)
        finally:
            self._wait()
        return output

    def _rested(self, state: dict[str, Any]) -> list[Tensor]:
        """Let the optimizer's state of a parameter rest."""
        for entry, value in state.items():
            if isinstance(value, Tensor) and value.ndim and not self.place.holds(value):
                state[entry] = keep(self.place, value)
        return [value for value in state.values() if isinstance(value, Tensor) and value.ndim]

    def _ghost(self, parameter: nn.Parameter) -> Tensor:
        """Zeros of a parameter's shape, through strides of 0."""
        zero = self._zeros.setdefault(parameter.dtype, torch.zeros(1, dtype=parameter.dtype, device=self.device))
        return zero.expand(parameter.shape)

    @contextmanager
    def _at_home(self) -> Iterator[None]:
        """Within the context the model has all its parameters, where they rest."""
        for parameter, home in self._homes.items():
            parameter.data = home
        try:
            yield
        finally:
            for parameter in self._homes:
                parameter.data = self._ghost(parameter)

    def _move_buffers(self, device: torch.device) -> None:
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)

    def _wait(self) -> None:
        """Until all that is on its way has arrived; nothing that was fetched ahead outlives a change of the weights."""
        if self._loader:
            self._loader.drop()
            torch.cuda.synchronize(self.device)


@contextmanager
def _without_graph() -> Iterator[None]:
    """No gradients, but no tensors of inference mode either: parameters that are loaded meanwhile are trained later."""
    with torch.inference_mode(False), torch.no_grad():  # In this order: the former switches gradients on.
        yield


class _Streams:
    """Copies stages to a GPU while it computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._coming: dict[int, tuple[list[Tensor], torch.cuda.Event]] = {}

    def fetch(self, number: int, homes: Sequence[Tensor]) -> None:
        """Begin to copy the tensors of a stage."""
        if number in self._coming:
            return
        with torch.cuda.stream(self._stream):
            tensors = [home.to(self._device, non_blocking=True) for home in homes]
            self._coming[number] = tensors, self._stream.record_event()

    def take(self, number: int, homes: Sequence[Tensor]) -> list[Tensor]:
        """The tensors of a stage on the GPU."""
        self.fetch(number, homes)
        tensors, event = self._coming.pop(number)
        current = torch.cuda.current_stream(self._device)
        current.wait_event(event)
        for tensor in tensors:
            tensor.record_stream(current)
        return tensors

    def drop(self) -> None:
        self._coming.clear()

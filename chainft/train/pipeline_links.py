"""How neighbouring stages of a pipeline hand tensors over: within a rank as they are, between ranks as messages.

Each edge between two ranks has two channels, one a direction, and each channel has a process group of its own with
these two ranks. What is sent into a channel is received in the same order, whatever else goes on, so that two
schedules that agree on the order of micro-batches on every edge cannot block each other, by gloo as by NCCL.
Letters: B rows, L tokens, D width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from chainft.stages.gates import Payload

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8)
_MAX_DIMENSIONS = 4
_HEADER = 4 + _MAX_DIMENSIONS
"""Whole numbers that tell of one tensor."""


class Form(NamedTuple):
    """What a tensor is like, without its values."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    has_gradient: bool
    """Whether a gradient comes back for it."""

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        return cls(tuple(tensor.shape), tensor.dtype, tensor.requires_grad)

    def numbers(self) -> list[int]:
        padding = [0] * (_MAX_DIMENSIONS - len(self.shape))
        return [1, self.has_gradient, _DTYPES.index(self.dtype), len(self.shape), *self.shape, *padding]

    @classmethod
    def read(cls, numbers: Sequence[int]) -> Form | None:
        there, has_gradient, dtype, dimensions, *shape = numbers
        return cls(tuple(shape[:dimensions]), _DTYPES[dtype], bool(has_gradient)) if there else None


class Message(NamedTuple):
    """What goes from one stage to the next."""

    hidden: Tensor | None
    """(B, L, D), as in `Payload`."""
    encoder: Tensor | None
    """(B, L, D), as in `Payload`."""
    random: Tensor | None
    """Where random numbers stand after the lower stage (`RandomState.packed`), so that dropout goes on as in the whole
    model; None: none were drawn for this micro-batch until now."""

    @classmethod
    def of(cls, payload: Payload, random: Tensor | None = None) -> Message:
        return cls(payload.hidden, payload.encoder, random)

    @property
    def payload(self) -> Payload:
        return Payload(self.hidden, self.encoder)


MessageForm = list[Form | None]


class Link(Protocol):
    """The edge between two stages, as one of them or both have it."""

    def send(self, message: Message, key: Hashable) -> None:
        """Hand on what the lower stage computed; messages of one `key` have one form."""

    def prepare(self, key: Hashable) -> None:
        """Begin to receive the next message, if its form is known."""

    def receive(self, key: Hashable) -> Message:
        """What the upper stage gets, as leaves of a new graph."""

    def send_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Hand back the gradients of those tensors of a message that have one."""

    def prepare_gradients(self, forms: Sequence[Form]) -> None:
        """Begin to receive the gradients of tensors of these forms."""

    def receive_gradients(self, forms: Sequence[Form]) -> list[Tensor]: ...

    def flush(self) -> None:
        """Wait until everything is sent."""

    def forget(self) -> None:
        """Forms may be other ones from now on, on both sides."""


class Near:
    """Both stages are on this rank."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._gradients: deque[list[Tensor]] = deque()

    def send(self, message: Message, key: Hashable) -> None:
        leaves = (None if one is None else one.detach().requires_grad_(one.requires_grad) for one in message)
        self._messages.append(Message(*leaves))

    def prepare(self, key: Hashable) -> None: ...

    def receive(self, key: Hashable) -> Message:
        return self._messages.popleft()

    def send_gradients(self, gradients: Sequence[Tensor]) -> None:
        self._gradients.append(list(gradients))

    def prepare_gradients(self, forms: Sequence[Form]) -> None: ...

    def receive_gradients(self, forms: Sequence[Form]) -> list[Tensor]:
        return self._gradients.popleft()

    def flush(self) -> None: ...

    def forget(self) -> None: ...


class Far:
    """The other stage is on another rank."""

    def __init__(
        self, ranks: tuple[int, int], groups: tuple[dist.ProcessGroup, dist.ProcessGroup], device: torch.device
    ) -> None:
        """`ranks`, among all processes, of the lower and the upper stage; `groups` of these two, for up and for down.

        Both ranks make their links in one order: each waits for the other.
        """
        lower, upper = ranks
        self._up = _Channel(lower, upper, groups[0], device)
        self._down = _Channel(upper, lower, groups[1], device)
        self._forms: dict[Hashable, MessageForm] = {}

    def send(self, message: Message, key: Hashable) -> None:
        form = [None if tensor is None else Form.of(tensor) for tensor in message]
        if key not in self._forms:
            self._forms[key] = form
            self._up.send(torch.tensor([one.numbers() if one else [0] * _HEADER for one in form]))
        elif self._forms[key] != form:
            raise RuntimeError(f"a message of the form {form}, where the other rank expects {self._forms[key]}")
        for tensor in message:
            if tensor is not None:
                self._up.send(tensor)

    def prepare(self, key: Hashable) -> None:
        if key in self._forms and not self._up.is_receiving:
            self._up.begin([form for form in self._forms[key] if form])

    def receive(self, key: Hashable) -> Message:
        if key not in self._forms:
            header = Form((len(Message._fields), _HEADER), torch.int64, has_gradient=False)
            self._up.begin([header])
            self._forms[key] = [Form.read(numbers) for numbers in self._up.end()[0].tolist()]
        self.prepare(key)
        tensors = iter(self._up.end())
        leaves = [next(tensors).requires_grad_(form.has_gradient) if form else None for form in self._forms[key]]
        return Message(*leaves)

    def send_gradients(self, gradients: Sequence[Tensor]) -> None:
        for gradient in gradients:
            self._down.send(gradient)

    def prepare_gradients(self, forms: Sequence[Form]) -> None:
        if forms and not self._down.is_receiving:
            self._down.begin(forms)

    def receive_gradients(self, forms: Sequence[Form]) -> list[Tensor]:
        self.prepare_gradients(forms)
        return self._down.end()

    def flush(self) -> None:
        self._up.flush()
        self._down.flush()

    def forget(self) -> None:
        self._forms.clear()


class _Channel:
    """Tensors from one rank to another. What is on the CPU goes through gloo, so that no GPU waits for it."""

    def __init__(self, source: int, target: int, group: dist.ProcessGroup, device: torch.device) -> None:
        self._source = source
        self._target = target
        self._device = device
        self._group = group
        self._sent: deque[tuple[dist.Work, Tensor]] = deque()
        self._coming: list[tuple[dist.Work, Tensor]] = []
        # NCCL connects at the first message and blocks until the other rank does: not in the middle of a schedule.
        if dist.get_rank() == source:
            self.send(torch.zeros(1, device=device))
            self.flush()
        else:
            self.begin([Form((1,), torch.float32, has_gradient=False)])
            self.end()

    @property
    def is_receiving(self) -> bool:
        return bool(self._coming)

    def send(self, tensor: Tensor) -> None:
        while self._sent and self._sent[0][0].is_completed():
            self._sent.popleft()
        sent = tensor.detach().contiguous()
        self._sent.append((_work(dist.isend(sent, self._target, group=self._group)), sent))

    def begin(self, forms: Sequence[Form]) -> None:
        for form in forms:
            device = self._device if form.dtype.is_floating_point else torch.device("cpu")
            tensor = torch.empty(form.shape, dtype=form.dtype, device=device)
            self._coming.append((_work(dist.irecv(tensor, self._source, group=self._group)), tensor))

    def end(self) -> list[Tensor]:
        coming, self._coming = self._coming, []
        for work, _ in coming:
            work.wait()
        return [tensor for _, tensor in coming]

    def flush(self) -> None:
        while self._sent:
            self._sent.popleft()[0].wait()


def _work(work: dist.Work | None) -> dist.Work:
    assert work is not None, "this process is not in the group"
    return work

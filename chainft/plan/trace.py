"""Follows one training step on a model without weights: bytes that are alive after every operation, and FLOPs.

Every operation runs for real on a small batch, so that the true code of the architecture decides what is kept for the
backward pass; only products with whole weight matrices are left out, since their values do not matter. Letters: B
batch, L length.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten
Phase = Literal["forward", "backward", "recomputed"]
"""`recomputed`: in the backward pass, what the forward pass had computed before (gradient checkpointing)."""
PHASES: tuple[Phase, ...] = ("forward", "backward", "recomputed")


@dataclass
class Trace:
    """What one forward and backward pass did, at one batch and length."""

    alive: list[int] = field(default_factory=list)
    """Bytes of activations and temporaries after each operation; neither parameters nor their gradients."""
    gradients: list[int] = field(default_factory=list)
    """Bytes of the gradients of parameters after each operation."""
    units: list[int] = field(default_factory=list)
    """The unit of each operation."""
    num_forward: int = 0
    """How many of these operations are the forward pass, loss included."""
    flops: dict[tuple[int, Phase], int] = field(default_factory=lambda: defaultdict(int))
    """(unit, phase) -> floating-point operations, a multiplication and an addition counted as two."""
    kept: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """Unit -> bytes that it keeps for the backward pass."""
    logits: list[int] = field(default_factory=list)
    """Of `alive`, the bytes of logits that the loss makes, which it never makes all at once."""


class Ghostly(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Leaves the work out that only weights of a true size would bring: a step costs what its small batch costs."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation's output in its true shape: without its values for products of matrices, as ghost for casts of one."""
    if func in _SHAPES:
        shape, like = _SHAPES[func](args)
        # Zeros keep what looks at values (routers, masks) defined; at gradients of whole matrices nobody looks.
        make = torch.empty if math.prod(shape) > 2**20 and not torch.is_grad_enabled() else torch.zeros
        return make(shape, dtype=like.dtype, device=like.device)
    if func is aten._to_copy.default and is_ghost(args[0]):
        dtype = kwargs.get("dtype") or args[0].dtype
        return torch.zeros(1, dtype=dtype).expand(args[0].shape)
    return func(*args, **kwargs)


def is_ghost(tensor: Tensor) -> bool:
    """Whether a tensor is one number seen in every place, as the parameters of a skeleton are."""
    return tensor.numel() > 1 and not any(tensor.stride())


_SHAPES: dict[Any, Callable[[Sequence[Any]], tuple[tuple[int, ...], Tensor]]] = {
    aten.mm.default: lambda args: ((args[0].shape[0], args[1].shape[1]), args[0]),
    aten.addmm.default: lambda args: ((args[1].shape[0], args[2].shape[1]), args[1]),
    aten.embedding_dense_backward.default: lambda args: ((args[2], args[0].shape[-1]), args[0]),
}


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records a `Trace` while it is entered; `unit` says which part of the model computes."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """`known`: parameters and buffers, which are there before and after."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self.unit = -1
        self.phase: Phase = "forward"
        # Held on to, since the address of a storage that is gone is soon that of another one.
        self._storages = [tensor.untyped_storage() for tensor in known]
        self._known = {storage._cdata for storage in self._storages}
        self._sizes: dict[int, tuple[int, int]] = {}
        self._alive = 0
        self._gradients = 0
        self._references: dict[int, Any] = {}
        self._logits = 0
        self._of_logits: set[int] = set()
        self.num_words: int | None = None
        """While the loss makes logits itself: how many words they have."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = compute(func, args, kwargs)
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                is_workspace = func is _LSTM_FORWARD and leaf.dtype == torch.uint8
                self._note(leaf, _workspace_of_lstm(args) if is_workspace else None)
        self.trace.flops[self.unit, self._phase()] += flops_of(func, args, kwargs, output)
        self.trace.alive.append(self._alive)
        self.trace.gradients.append(self._gradients)
        self.trace.logits.append(self._logits)
        self.trace.units.append(self.unit)
        return output

    def _phase(self) -> Phase:
        """Gradients themselves are computed without a graph, what is computed once more has one."""
        return "recomputed" if self.phase == "backward" and torch.is_grad_enabled() else self.phase

    def begin_backward(self) -> None:
        """The forward pass is done: what is alive now is kept for the backward pass."""
        self.trace.num_forward = len(self.trace.alive)
        for size, unit in self._sizes.values():
            self.trace.kept[unit] += size
        self.phase = "backward"

    def move(self, tensors: Iterable[Tensor]) -> None:
        """Count these with the current unit, for which they are kept."""
        for tensor in tensors:
            key = tensor.untyped_storage()._cdata
            if key in self._sizes:
                self._sizes[key] = (self._sizes[key][0], self.unit)

    def take_gradient(self, gradient: Tensor) -> None:
        """Count a parameter's first gradient as such from now on."""
        self._gradients += gradient.numel() * gradient.element_size()

    def _note(self, tensor: Tensor, size: int | None) -> None:
        """`size`: its bytes, where those here say nothing of those of a larger batch."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or key in self._sizes:
            return
        # The cast copy of a parameter takes memory, though here it is a ghost.
        if size is None:
            size = tensor.numel() * tensor.element_size() if is_ghost(tensor) else storage.nbytes()
        self._sizes[key] = (size, self.unit)
        self._alive += size
        if self.num_words is not None and tensor.dim() == 2 and tensor.shape[1] == self.num_words:
            self._logits += size
            self._of_logits.add(key)
        self._references[key] = weakref.ref(storage, lambda _: self._forget(key))

    def _forget(self, key: int) -> None:
        size = self._sizes.pop(key)[0]
        self._alive -= size
        if key in self._of_logits:
            self._of_logits.remove(key)
            self._logits -= size
        self._references.pop(key)


_LSTM_FORWARD = aten.mkldnn_rnn_layer.default
_LSTM = {_LSTM_FORWARD: 1, aten.mkldnn_rnn_layer_backward.default: 2}
"""One direction of a layer of it on the CPU, input (L, B, D) and weights (4H, D), (4H, H); in the backward pass each
product is two, for what was read and for the weights."""


def _workspace_of_lstm(args: Sequence[Any]) -> int:
    """Bytes that one direction of an LSTM layer keeps for its backward pass, input (L, B, D), H units: 13 H + 4 D numbers
    a token, as measured of torch 2.11 on CPUs (L 64 to 256, B 4 to 16, D 384, H 100 and 192); it is padded to whole tiles,
    which says nothing at the sizes of a trace. cuDNN keeps less."""
    length, rows, width = args[0].shape
    return int(4 * length * rows * (13 * args[2].shape[1] + 4 * width))


def flops_of(func: Any, args: Any, kwargs: dict[str, Any], output: Any) -> int:
    """Floating-point operations of matrix products and attention; all others are counted as none, as torch does."""
    if func is aten._scaled_dot_product_flash_attention_for_cpu.default:
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))  # type: ignore[no-untyped-call]
    if func is aten._scaled_dot_product_flash_attention_for_cpu_backward.default:
        return int(sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4])))  # type: ignore[no-untyped-call]
    if func in _LSTM:
        length, rows = args[0].shape[:2]
        return int(_LSTM[func] * 2 * length * rows * (args[1].numel() + args[2].numel()))
    count = flop_registry.get(func._overloadpacket)
    return int(count(*args, **kwargs, out_val=output)) if count is not None else 0

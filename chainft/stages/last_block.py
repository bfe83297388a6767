"""The last block, computed for those tokens only whose outputs are read: a text's label is read off its first token.

Of all tokens a block needs the keys and values; queries, what attention gives, the residual, norms and the
feed-forward layers only of those that are read. The block's own code runs: for the time of its call, wherever the
tensor of read tokens meets that of all tokens, the latter is cut. Which modules give queries alone is found by calling
the block with NaN in place of what they would give for the others. Letters: T tokens, R read ones, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from chainft.stages.rounding import alike

_SHAPED = (torch.Tensor.reshape, torch.Tensor.view, torch.reshape)


class Narrowed(TorchFunctionMode):
    """Within the context, attention gives the read tokens alone, and what follows it goes on with these."""

    def __init__(self, read: Tensor, num_tokens: int) -> None:
        """`read` (R,): places of the read tokens among all `num_tokens`."""
        super().__init__()
        self.read = read
        self.all = (1, num_tokens)
        self.few = (1, len(read))
        self._entered = ExitStack()
        self.attended = False
        """From here on, tensors of read tokens stand for those of all."""

    def begin(self) -> None:
        """Attention is done. Before, nothing is to be cut, and calls of torch need not pass here."""
        if not self.attended:
            self.attended = True
            self._entered.enter_context(self)

    def end(self) -> None:
        """The block is through."""
        self._entered.close()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if args:
            args = self._shaped(args) if func in _SHAPED else self._met(args)
        return func(*args, **named)

    def cut(self, hidden: Tensor) -> Tensor:
        """(1, R, ...) of (1, T, ...)."""
        if hidden.dim() == 3:
            return functional.embedding(self.read, hidden[0])[None]  # Its backward pass is a fast one.
        return hidden.index_select(1, self.read)

    def _met(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a call, those of all tokens cut if there is one of the read tokens."""
        shapes = [tuple(one.shape[:2]) if isinstance(one, Tensor) and one.dim() == 3 else None for one in args]
        if self.few not in shapes or self.all not in shapes:
            return args
        return tuple(self.cut(one) if shape == self.all else one for one, shape in zip(args, shapes, strict=True))

    def _shaped(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a call for another shape, which the block's code took from its input."""
        tensor, *rest = args
        sizes = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple | list) else rest
        if tuple(tensor.shape[:2]) != self.few or tuple(sizes[:2]) != self.all:
            return args
        return tensor, (*self.few, *sizes[2:])


_NARROWED: ContextVar[Narrowed | None] = ContextVar("chainft_narrowed", default=None)


def narrowed() -> Narrowed | None:
    """What attention has to keep to; None: all tokens attend."""
    return _NARROWED.get()


@contextmanager
def narrowing(read: Tensor, num_tokens: int, queries: Sequence[nn.Module], *, rest: float = 0.0) -> Iterator[None]:
    """For one call of a block, outputs of tokens that are not `read` are not computed; it gives (1, R, D).

    `queries` compute for the read tokens alone; their output has `rest` for the others.
    """
    mode = Narrowed(read, num_tokens)
    token = _NARROWED.set(mode)
    try:
        with ExitStack() as stack:
            for module in queries:
                stack.enter_context(_for_read_tokens(module, mode, rest))
            stack.callback(mode.end)
            yield
    finally:
        _NARROWED.reset(token)


@contextmanager
def _for_read_tokens(module: nn.Module, mode: Narrowed, rest: float) -> Iterator[None]:
    def cut(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return mode.cut(args[0]), *args[1:]

    def spread(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        """(1, T, D) of (1, R, D): what comes before attention, such as rotations by position, is for all tokens."""
        whole = output.new_full((mode.all[1], output.shape[2]), rest)
        return whole.index_copy(0, mode.read, output[0])[None]

    handles = [module.register_forward_pre_hook(cut), module.register_forward_hook(spread)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_queries(
    block: nn.Module, call: Callable[[Sequence[nn.Module], float], Tensor], expected: Tensor
) -> list[nn.Module]:
    """The outermost modules of a block whose outputs serve the tokens alone for which they are computed.

    `call(modules, rest)` gives the block's output for the read tokens by `narrowing` with these; `expected`: what it is.
    """
    found: dict[str, nn.Module] = {}
    for path, module in _called_before_attention(block, call):
        if any(path.startswith(f"{outer}.") for outer in found):
            continue
        try:
            output = call([*found.values(), module], math.nan)
        except (TypeError, ValueError, IndexError, RuntimeError):
            continue  # It takes something else than one hidden state.
        if alike(output, expected):
            found[path] = module
    return list(found.values())


def _called_before_attention(
    block: nn.Module, call: Callable[[Sequence[nn.Module], float], Tensor]
) -> list[tuple[str, nn.Module]]:
    """Modules that map (1, T, D) to (1, T, D') before attention, each once, outer ones before what is in them."""
    found: dict[str, nn.Module] = {}

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            mode = narrowed()
            tensors = [*args[:1], output]
            maps = len(tensors) == 2 and all(isinstance(one, Tensor) and one.dim() == 3 for one in tensors)
            if maps and mode is not None and not mode.attended:
                found[path] = module

        return hook

    modules = {path: module for path, module in block.named_modules() if path}
    handles = [module.register_forward_hook(note(path)) for path, module in modules.items()]
    try:
        call([], math.nan)
    finally:
        for handle in handles:
            handle.remove()
    return [(path, module) for path, module in modules.items() if path in found]

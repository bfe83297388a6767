"""Leaves out what a model computes before its first block, where the hidden state comes from elsewhere.

A span that begins with a received state skips the blocks before it, but the model's forward pass still computes its
embeddings, for nothing. Which modules these are is found by calling the model; that their output comes to nothing is
tried, bit for bit, with zeros in its place. Letters: B batch, L length, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chainft.stages.gates import Gates, Payload, probe_inputs
from chainft.stages.modes import evaluating
from chainft.stages.spans import Span
from chainft.stages.trunk import logits_of


@dataclass(frozen=True)
class Idle:
    """A module whose output comes to nothing."""

    module: nn.Module
    width: int
    dtype: torch.dtype

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Within the context the module gives zeros, (rows, length, width) of its inputs, and computes nothing."""
        module: Any = self.module
        own = vars(module).get("forward")
        device = next(module.parameters()).device

        def zeros(*args: Any, **kwargs: Any) -> Tensor:
            rows, length = next(one.shape[:2] for one in (*args, *kwargs.values()) if isinstance(one, Tensor))
            return torch.zeros(rows, length, self.width, dtype=self.dtype, device=device)

        module.forward = zeros
        try:
            yield
        finally:
            if own is None:
                del module.forward
            else:
                module.forward = own


def find_idle(gates: Gates, rest: Span, payload: Payload) -> Sequence[Idle]:
    """Modules that can be left out of a call of `rest`; `payload`: what the inputs of `probe_inputs` come with."""
    last = gates.blocks.num_blocks
    span = rest if rest.start == last else Span(rest.start, last, embeddings=False, head=False)
    expected = _states(gates, span, payload)
    return [one for one in _called_first(gates) if _comes_to_nothing(one, gates, span, payload, expected)]


def _called_first(gates: Gates) -> list[Idle]:
    """The outermost modules with parameters that are called before block 0 and give a tensor (1, L, D)."""
    found: dict[str, Idle] = {}
    length = probe_inputs(gates.model)["input_ids"].shape[1]

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 3 and tuple(output.shape[:2]) == (1, length):
                found[path] = Idle(module, output.shape[2], output.dtype)

        return hook

    handles = [
        module.register_forward_hook(note(path))
        for path, module in gates.model.named_modules()
        if next(module.parameters(), None) is not None
    ]
    try:
        with torch.no_grad():
            gates.run(Span(0, 0, embeddings=True, head=False), None, probe_inputs(gates.model))
    finally:
        for handle in handles:
            handle.remove()
    return [one for path, one in found.items() if not any(path.startswith(f"{outer}.") for outer in found)]


def _comes_to_nothing(one: Idle, gates: Gates, span: Span, payload: Payload, expected: Tensor) -> bool:
    try:
        with one.left_out():
            return torch.equal(_states(gates, span, payload), expected)
    except StopIteration:  # It is called without any tensor.
        return False


def _states(gates: Gates, span: Span, payload: Payload) -> Tensor:
    """(1, L, D) at the end of the last block; where the head alone is left, its logits."""
    model = gates.model
    with evaluating(model), torch.no_grad():
        output = gates.run(span, payload, probe_inputs(model))
    if not isinstance(output, Payload):
        return torch.cat([logits.flatten() for logits in logits_of(output)])
    assert output.hidden is not None
    return output.hidden

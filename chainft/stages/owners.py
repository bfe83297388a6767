"""To which unit of a model each parameter belongs: embeddings, a block, or the head.

Parameters of blocks are known by their path. Those of the shell are found on the autograd graph of one short text: the
first position whose payload depends on a parameter tells who computes with it. What leaves no trace there, such as
fixed position tables, goes by the time at which its module is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chainft.stages.blocks import find_blocks
from chainft.stages.gates import Gates, probe_inputs
from chainft.stages.spans import Span

EMBEDDINGS = -1


def owners(model: PreTrainedModel) -> Mapping[str, int]:
    """Parameter name (every one it has) -> unit: -1 the embeddings, a block's number, `num_blocks` the head.

    A parameter that several units compute with belongs to the first of them; one that nothing computes with, to the
    head.
    """
    return trace(model)[0]


def trace(model: PreTrainedModel) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """`owners`, and for each module without parameters (dropout, activations) by path the first unit that calls it."""
    blocks = find_blocks(model)
    gates = Gates(model)
    units: dict[int, int] = {}
    callers: dict[str, int] = {}
    with _traced(model) as called, _noted_calls(model) as ran:
        payload, visited = None, set[Any]()
        for unit in range(EMBEDDINGS, blocks.num_blocks + 1):
            span = unit_span(unit, blocks.num_blocks)
            output = gates.run(span, payload, probe_inputs(model))
            payload = None if span.head else output
            tensors = _tensors(output)
            for parameter in _reached(tensors, visited):
                units.setdefault(parameter, unit)
            for parameter in called:
                units.setdefault(parameter, unit)
            called.clear()
            callers = {**dict.fromkeys(ran, unit), **callers}
            ran.clear()
    found = {
        name: block if block is not None else units.get(id(parameter), blocks.num_blocks)
        for name, parameter, block in blocks.parameters()
    }
    return found, callers


def unit_span(unit: int, num_blocks: int) -> Span:
    """The span of one unit alone."""
    if unit == EMBEDDINGS:
        return Span(0, 0, embeddings=True, head=False)
    if unit == num_blocks:
        return Span(num_blocks, num_blocks, embeddings=False, head=True)
    return Span(unit, unit + 1, embeddings=False, head=False)


def live(gates: Gates, span: Span) -> set[str]:
    """Names of all parameters that a span needs to compute its output: its blocks' own and some of the shell's."""
    model = gates.model
    payload = None
    if not span.embeddings:
        with torch.no_grad():
            payload = gates.run(Span(0, span.start, embeddings=True, head=False), None, probe_inputs(model)).apart()
    with _traced(model) as constant:
        output = gates.run(span, payload, probe_inputs(model))
        needed = set(_reached(_tensors(output), set())) | set(constant)
    blocks = tuple(f"{gates.blocks.path_of(block)}." for block in span.blocks)
    return {
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) in needed or name.startswith(blocks)
    }


@contextmanager
def _traced(model: PreTrainedModel) -> Iterator[list[int]]:
    """Gradients for all; yields a list that gets the parameters of modules whose output has no gradient all the same."""
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    was_training = model.training
    called: list[int] = []
    own = [(module, list(module.parameters(recurse=False))) for module in model.modules()]
    handles = [module.register_forward_hook(_note(called, parameters)) for module, parameters in own if parameters]
    model.requires_grad_(True)
    model.train(False)
    try:
        with torch.enable_grad():
            yield called
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


@contextmanager
def _noted_calls(model: PreTrainedModel) -> Iterator[list[str]]:
    """Yields a list that gets the paths of modules without parameters when they are called."""
    ran: list[str] = []

    def note(path: str) -> Callable[..., None]:
        return lambda *_: ran.append(path)

    bare = [(path, module) for path, module in model.named_modules() if next(module.parameters(), None) is None]
    handles = [module.register_forward_pre_hook(note(path)) for path, module in bare]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def _note(called: list[int], parameters: list[nn.Parameter]) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        tensors = _tensors(output)
        if tensors and not any(tensor.requires_grad for tensor in tensors):
            called.extend(id(parameter) for parameter in parameters)

    return hook


def _tensors(output: Any) -> list[Tensor]:
    if hasattr(output, "tensors"):
        return list(output.tensors())
    leaves = torch.utils._pytree.tree_leaves(dict(output) if isinstance(output, Mapping) else output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _reached(tensors: list[Tensor], visited: set[Any]) -> Iterator[int]:
    """Ids of the parameters on which the tensors depend, as far as `visited` does not hold the way to them."""
    pending = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    while pending:
        node = pending.pop()
        if node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):
            yield id(node.variable)
        pending += [following for following, _ in node.next_functions if following is not None]

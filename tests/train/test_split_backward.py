"""The backward pass in two parts gives what the whole one gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from chainft.stages.gates import Gates, Payload
from chainft.stages.owners import live
from chainft.stages.spans import Span
from chainft.train.split_backward import SplitBackward
from tests.stages.architectures import batch, tiny_model

FAMILIES = ("bert:classify", "llama:causal", "gpt2:causal", "albert:classify", "deberta-v2:classify", "mpnet:classify")


def middle(case: str, first: int) -> tuple[Gates, Span, Payload]:
    """A stage that neither begins nor ends the model, and what it receives."""
    gates = Gates(tiny_model(case))
    last = gates.blocks.num_blocks
    with torch.no_grad():
        received = gates.run(Span(0, first, embeddings=True, head=False), None, batch(case))
    return gates, Span(first, last - 1, embeddings=False, head=False), received


def both(case: str, *, first: int = 1, frozen: str | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All gradients by the whole backward pass, and by the one in two parts."""
    gates, span, received = middle(case, first)
    names = live(gates, span)
    for name, parameter in gates.model.named_parameters():
        parameter.requires_grad_(name in names and (frozen is None or frozen not in name))
    torch.manual_seed(1)
    coming = [torch.randn_like(tensor) for tensor in gates.run(span, received, batch(case)).tensors()]
    found = []
    for split in (False, True):
        gates.model.zero_grad()
        payload = received.apart()
        output = gates.run(span, payload, batch(case))
        roots = [get_gradient_edge(tensor) for tensor in output.tensors()]
        if split:
            parts = SplitBackward(roots, coming)
            del output
            inputs = parts.inputs(payload.tensors())
            assert all(parameter.grad is None for parameter in gates.model.parameters())
            parts.weights()
        else:
            torch.autograd.backward(roots, coming)
            inputs = tuple(tensor.grad for tensor in payload.tensors())
        gradients = {f"input {number}": tensor for number, tensor in enumerate(inputs)}
        gradients |= {name: one.grad for name, one in gates.model.named_parameters() if one.grad is not None}
        found.append(gradients)
    return found[0], found[1]


@pytest.mark.parametrize(
    ("case", "first"),
    [
        *((case, 1) for case in FAMILIES),
        ("t5:seq2seq", 1),
        ("t5:seq2seq", 4),
        ("bart:seq2seq", 1),
        ("bart:seq2seq", 4),
    ],
)
def test_two_parts_give_the_gradients_of_the_whole(case: str, first: int) -> None:
    whole, parts = both(case, first=first)
    assert len(whole) > 5
    assert whole.keys() == parts.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("case", ["bert:classify", "deberta-v2:classify"])
def test_frozen_weights_get_none(case: str) -> None:
    whole, parts = both(case, frozen="attention")
    assert whole.keys() == parts.keys()
    assert not any("attention" in name for name in parts)


def test_an_output_that_depends_on_weights_alone_and_one_that_is_an_input() -> None:
    weight, given = torch.tensor(3.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    outputs = [weight * given, weight**2, given]
    parts = SplitBackward([get_gradient_edge(one) for one in outputs], [torch.tensor(float(10**n)) for n in range(3)])
    assert parts.inputs([given]) == (torch.tensor(103.0),)
    assert weight.grad is None
    parts.weights()
    assert weight.grad == 1 * 2 + 10 * 6


def test_the_second_part_does_not_go_the_way_of_the_first_again() -> None:
    runs = []

    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, tensor: Tensor) -> Tensor:
            return tensor * 1

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            runs.append(1)
            return gradient

    given = torch.ones(3, requires_grad=True)
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    output = second(Noted.apply(first(given))).sum()
    parts = SplitBackward([get_gradient_edge(output)], [None])
    parts.inputs([given])
    assert runs == [1]
    parts.weights()
    assert runs == [1]
    assert first.weight.grad is not None

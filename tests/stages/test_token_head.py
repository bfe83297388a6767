"""A head that treats tokens one by one runs for the read ones alone; any other runs as ever."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chainft.stages.packing import Packing, packing_of
from tests.stages.architectures import tiny_model
from tests.stages.test_packing import LENGTHS, batch

INSIDE = np.arange(LENGTHS.max())[None] < LENGTHS[:, None]
READ = INSIDE & (np.arange(INSIDE.size) % 3 == 1).reshape(INSIDE.shape)


class Seen:
    """Shapes of what a module is called with."""

    def __init__(self, module: nn.Module) -> None:
        self.shapes: list[tuple[int, ...]] = []
        module.register_forward_pre_hook(lambda _, args: self.shapes.append(tuple(args[0].shape)))


def packed(model: PreTrainedModel) -> Packing:
    found = packing_of(model)
    assert found is not None
    return found


def logits(packing: Packing, read: np.ndarray | None = READ, **more: Any) -> Tensor:
    found: Tensor = packing.run({**batch(packing.gates.model), **more}, LENGTHS, read=read).logits
    return found


@pytest.mark.parametrize("case", ["bert:tokens", "roberta:tokens", "distilbert:tokens", "llama:causal"])
def test_read_tokens_get_the_same_logits_and_the_others_none(case: str) -> None:
    model = tiny_model(case).eval()
    packing = packed(model)
    expected = model(**batch(model)).logits
    logits(packing)  # Finds out whether it may.
    last = model.get_output_embeddings() if case.endswith("causal") else model.classifier
    seen = Seen(last)
    found = logits(packing)
    assert [int(np.prod(shape[:-1])) for shape in seen.shapes] == [READ.sum()]
    torch.testing.assert_close(found[torch.from_numpy(READ)], expected[torch.from_numpy(READ)], rtol=1e-4, atol=1e-5)
    assert not found[torch.from_numpy(~READ)].any()


def test_gradients_are_those_of_the_padded_model() -> None:
    model = tiny_model("bert:tokens").eval()
    packing, read = packed(model), torch.from_numpy(READ)
    found = torch.autograd.grad(logits(packing)[read].square().sum(), list(model.parameters()), allow_unused=True)
    whole = model(**batch(model)).logits
    expected = torch.autograd.grad(whole[read].square().sum(), list(model.parameters()), allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


class Neighbours(nn.Linear):
    """A head that looks at the token before."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input + input.roll(1, dims=1))


class OfRows(nn.Linear):
    """A head that a single row does not suit."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[0] < 2 and input.shape[1] > 8:  # Finding the blocks tries one short row.
            raise ValueError("rows")
        return super().forward(input)


@pytest.mark.parametrize("kind", [Neighbours, OfRows])
def test_a_head_that_needs_more_than_the_token_runs_padded(kind: type[nn.Linear]) -> None:
    model = tiny_model("bert:tokens").eval()
    model.classifier = kind(model.config.hidden_size, model.config.num_labels)
    packing = packed(model)
    logits(packing)
    seen = Seen(model.classifier)
    logits(packing)
    assert [shape[:2] for shape in seen.shapes] == [INSIDE.shape]


def test_a_head_of_whole_texts_runs_padded() -> None:
    model = tiny_model("bert:classify").eval()
    packing, first = packed(model), np.zeros_like(READ)
    first[:, 0] = True
    expected = model(**batch(model)).logits
    torch.testing.assert_close(logits(packing, first), expected, rtol=1e-4, atol=1e-5)


def test_other_inputs_of_the_head_keep_it_padded() -> None:
    model = tiny_model("bert:tokens").eval()
    packing = packed(model)
    logits(packing)
    seen = Seen(model.classifier)
    logits(packing, labels=torch.zeros(INSIDE.shape, dtype=torch.long))
    assert [shape[:2] for shape in seen.shapes] == [INSIDE.shape]


def test_training_in_16_bits_tries_it_in_32() -> None:
    packing = packed(tiny_model("bert:tokens").eval())
    seen = Seen(packing.gates.model.classifier)
    with torch.autocast("cpu", torch.bfloat16):
        logits(packing)
        logits(packing)
    assert int(np.prod(seen.shapes[-1][:-1])) == READ.sum()

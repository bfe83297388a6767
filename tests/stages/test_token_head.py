"""A head that treats tokens one by one runs for the read ones alone; any other runs as ever."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from chainft.stages.deferred_head import DeferredHead
from chainft.stages.packed_layout import Layout
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
    found.try_head()
    return found


def logits(packing: Packing, read: np.ndarray | None = READ, **more: Any) -> Tensor:
    found: Tensor = packing.run({**batch(packing.gates.model), **more}, LENGTHS, read=read).logits
    return found


@pytest.mark.parametrize("case", ["bert:tokens", "roberta:tokens", "distilbert:tokens", "llama:causal"])
def test_read_tokens_get_the_same_logits_and_the_others_none(case: str) -> None:
    model = tiny_model(case).eval()
    packing = packed(model)
    expected = model(**batch(model)).logits
    assert packing.has_token_head
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
    seen = Seen(model.classifier)
    logits(packing, labels=torch.zeros(INSIDE.shape, dtype=torch.long))
    assert [shape[:2] for shape in seen.shapes] == [INSIDE.shape]


class Typed(nn.Linear):
    """The scores of a model that looks at more than hidden states; `more` (B, L)."""

    more: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        found = super().forward(input)
        return found if self.more is None else found + self.more[..., None]


@pytest.mark.parametrize(("name", "by_tokens"), [("neighbours", False), ("types", True), ("types before", False)])
def test_heads_that_look_at_other_inputs_are_tried_with_these(name: str, by_tokens: bool) -> None:
    model = tiny_model("bert:tokens").eval()
    model.classifier = Typed(model.config.hidden_size, model.config.num_labels)

    def look(_: nn.Module, __: Any, given: dict[str, Any]) -> None:
        ids, types = given["input_ids"], given.get("token_type_ids")
        types = torch.zeros_like(ids) if types is None else types
        more = {"neighbours": ids.roll(1, dims=1), "types": types, "types before": types.roll(1, dims=1)}[name]
        model.classifier.more = more.float()

    model.register_forward_pre_hook(look, with_kwargs=True)
    assert packed(model).has_token_head == by_tokens


def test_training_in_16_bits_tries_it_in_32() -> None:
    """Before Accelerate has the model: its autocast is within all others."""
    model = tiny_model("bert:tokens").eval()
    dtypes: list[torch.dtype] = []
    model.classifier.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    packing = packed(model)
    assert set(dtypes) == {torch.float32} and packing.has_token_head
    AcceleratorState._reset_state(reset_partial_state=True)
    Accelerator(cpu=True, mixed_precision="bf16").prepare_model(model, evaluation_mode=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    seen = Seen(model.classifier)
    found = logits(packing)
    assert [int(np.prod(shape[:-1])) for shape in seen.shapes] == [READ.sum()]
    assert dtypes[-1] == torch.bfloat16 and found.dtype == torch.float32  # Accelerate's hand back float32.


class Largest(TorchDispatchMode):
    """Most numbers of a tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        sizes = [one.numel() for one in tree_leaves(found) if isinstance(one, Tensor)]
        self.numel = max([self.numel, *sizes])
        return found


@pytest.mark.parametrize("case", ["llama:causal", "gpt2:causal", "bert:tokens"])
def test_the_head_makes_nothing_of_the_size_of_all_pairs_of_tokens(case: str) -> None:
    model = tiny_model(case).eval()
    packing = packed(model)
    lengths, width = np.full(24, 24), model.config.get_text_config().hidden_size
    layout = Layout(lengths, model.device, np.ones((24, 24), bool))
    inputs = {"input_ids": torch.full((24, 24), 5), "attention_mask": torch.ones(24, 24, dtype=torch.long)}
    assert packing._token_head.takes(inputs)
    with Largest() as largest, torch.no_grad():
        packing._token_head(torch.randn(1, 576, width), inputs, layout)
    num_scores = model.config.vocab_size if case.endswith("causal") else width
    assert 0 < largest.numel <= 576 * max(num_scores, width) + 1024 < 576 * 576


def test_a_language_model_may_leave_its_logits_to_the_loss_too() -> None:
    model = tiny_model("llama:causal").eval()
    packing = packed(model)
    expected, read = logits(packing), torch.from_numpy(READ)
    deferred = DeferredHead(model, model.get_output_embeddings())
    seen = Seen(model.get_output_embeddings())
    with deferred.left_out():
        output = packing.run(batch(model), LENGTHS, read=READ)
    assert not seen.shapes or {int(np.prod(shape[:-1])) for shape in seen.shapes} == {READ.sum()}
    found = deferred.finish(output).logits.tensor()
    torch.testing.assert_close(found[read], expected[read], rtol=1e-5, atol=1e-6)


def test_memory_that_runs_out_while_it_is_tried_is_told() -> None:
    model = tiny_model("bert:tokens").eval()
    packing = packing_of(model)
    assert packing is not None

    def fill(_: nn.Module, args: Any) -> None:
        if args[0].shape[0] == 1:
            raise torch.OutOfMemoryError("full")

    model.classifier.register_forward_pre_hook(fill)
    with pytest.raises(torch.OutOfMemoryError):
        packing.try_head()


def test_states_beyond_the_last_block_are_refused() -> None:
    packing = packed(tiny_model("bert:tokens").eval())
    with pytest.raises(ValueError, match="no block"):
        packing.run(batch(packing.gates.model), LENGTHS, states=lambda order: torch.zeros(1), start=packing.num_blocks)

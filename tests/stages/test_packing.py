"""Batches without padding compute what padded ones compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from chainft.stages.gates import Gates, Payload
from chainft.stages.packing import Layout, Packing, States, packing_of
from chainft.stages.spans import Span
from chainft.stages.trunk import JointModel, logits_of
from tests.stages.architectures import CASES, tiny_model

PACKED = (
    "albert", "bert", "camembert", "cohere", "data2vec-text", "distilbert", "electra", "ernie", "esm", "gemma", "glm",
    "gpt2", "gpt_bigcode", "gpt_neox", "granite", "llama", "olmo2", "opt", "phi", "phi3", "qwen3", "roberta",
    "roberta-prelayernorm", "smollm3", "stablelm", "starcoder2", "xlm-roberta", "xmod",
)  # fmt: skip
"""Families whose blocks mix tokens in their attention only, by an attention that transformers lets others replace."""
LENGTHS = np.array([7, 3, 11, 3, 5])


def batch(model: PreTrainedModel, lengths: np.ndarray = LENGTHS) -> dict[str, Tensor]:
    config = model.config.get_text_config()
    pad = config.pad_token_id or 0
    mask = np.arange(lengths.max())[None] < lengths[:, None]
    words = np.random.default_rng(1).integers(5, config.vocab_size, mask.shape)
    ids = np.where(mask, np.where(words == pad, 6, words), pad)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}


def end_to_end(padded: Tensor, lengths: np.ndarray = LENGTHS) -> States:
    """(B, L, D) as what a batch may begin with."""
    return lambda order: torch.cat([padded[row, : lengths[row]] for row in order])


def loss(output: Any, mask: Tensor) -> Tensor:
    """Over the tokens that there are, or the texts."""
    total = torch.zeros(())
    for logits in logits_of(output):
        total = total + (logits[mask.bool()] if logits.ndim == 3 else logits).float().square().sum()
    return total


def gradients(model: PreTrainedModel, value: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", CASES)
def test_packed_is_padded_or_not_offered(case: str) -> None:
    model = tiny_model(case)
    packing = packing_of(model)
    assert (packing is not None) == (case.split(":")[0] in PACKED)
    if packing is None:
        return
    inputs = batch(model)
    whole = loss(model(**inputs), inputs["attention_mask"])
    expected = gradients(model, whole)
    found = loss(packing.run(inputs, LENGTHS), inputs["attention_mask"])
    assert found.item() == pytest.approx(whole.item(), rel=1e-5)
    for name, grad in gradients(model, found).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_the_model_is_as_before_afterwards() -> None:
    model = tiny_model("bert:tokens")
    before = model.config._attn_implementation
    packing = packing_of(model)
    assert packing is not None
    packing.run(batch(model), LENGTHS)
    assert model.config._attn_implementation == before
    inputs = batch(model)
    assert torch.equal(model(**inputs).logits, tiny_model("bert:tokens")(**inputs).logits)


def test_stages_in_evaluation_mode_stay_in_it() -> None:
    model = tiny_model("bert:tokens").train()
    packing = packing_of(model)
    assert packing is not None
    model.base_model.train(False)
    packing.run(batch(model), LENGTHS)
    assert model.training and not any(module.training for module in model.base_model.modules())


def test_blocks_may_begin_with_states_from_elsewhere() -> None:
    model = tiny_model("bert:tokens")
    packing, inputs = packing_of(model), batch(model)
    assert packing is not None
    states = Gates(model).run(Span(0, 2, embeddings=True, head=False), None, inputs).hidden
    mask = inputs["attention_mask"].bool()
    found = packing.run(inputs, LENGTHS, states=end_to_end(states), start=2).logits[mask]
    torch.testing.assert_close(found, model(**inputs).logits[mask], rtol=1e-5, atol=1e-6)


def test_several_heads_run_without_padding_too() -> None:
    model = JointModel({"tokens": tiny_model("bert:tokens"), "texts": tiny_model("bert:classify")})
    packing, inputs = packing_of(model), batch(model)
    assert packing is not None
    rows = torch.tensor([2, 0])
    own = {name: tensor[rows] for name, tensor in inputs.items()}
    parts = {"texts": (rows, own)}
    found = packing.run({**inputs, "parts": parts}, LENGTHS)["texts"].logits
    torch.testing.assert_close(found, model.head("texts")(**own).logits, rtol=1e-5, atol=1e-6)


def test_rows_as_long_as_the_window_of_attention_are_padded() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        sliding_window=16,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = MistralForCausalLM(config).eval()
    packing = packing_of(model)
    assert packing is not None and packing.longest == 16
    assert packing.takes(np.array([15, 3])) and not packing.takes(np.array([16, 3]))


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9))
@settings(max_examples=40, deadline=None)
def test_packing_and_unpacking_keeps_every_token_in_its_place(lengths: list[int]) -> None:
    sizes = np.array(lengths)
    layout = Layout(sizes, torch.device("cpu"))
    padded = torch.zeros(len(sizes), sizes.max(), 3)
    for row, size in enumerate(lengths):
        padded[row, :size] = torch.randn(size, 3)
    packed = layout.pack(padded)
    assert packed.shape == (1, sum(lengths), 3)
    assert torch.equal(layout.unpack(packed), padded)
    covered = torch.cat([group.places.flatten()[group.kept] for group in layout.groups])
    assert covered.tolist() == list(range(sum(lengths)))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.randoms())
@settings(max_examples=15, deadline=None)
def test_a_row_does_not_depend_on_the_rows_beside_it(lengths: list[int], random: Any) -> None:
    model = tiny_model("llama:causal")
    packing = packing_of(model)
    assert isinstance(packing, Packing)
    sizes = np.array(lengths)
    inputs = batch(model, sizes)
    row = random.randrange(len(lengths))
    alone = {name: tensor[row : row + 1, : sizes[row]] for name, tensor in inputs.items()}
    with torch.no_grad():
        found = packing.run(inputs, sizes).logits[row, : sizes[row]]
        torch.testing.assert_close(found, model(**alone).logits[0], rtol=1e-4, atol=1e-5)


def test_gates_are_left_as_they_were() -> None:
    model = tiny_model("gpt2:causal")
    packing = packing_of(model)
    assert packing is not None
    names = [name for name, _ in model.named_parameters()]
    packing.run(batch(model), LENGTHS)
    assert [name for name, _ in model.named_parameters()] == names
    assert isinstance(Gates(model).run(Span(0, 1, embeddings=True, head=False), None, batch(model)), Payload)

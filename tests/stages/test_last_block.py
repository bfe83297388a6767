"""The last block for the tokens that are read: what the whole block gives for these, and every gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from chainft.stages.lora import add_adapters
from chainft.stages.packing import Packing, packing_of
from chainft.stages.trunk import logits_of
from tests.stages.architectures import CASES, tiny_model
from tests.stages.test_packing import LENGTHS, PACKED, batch, end_to_end, gradients

TOGETHER = ("gpt2", "gpt_bigcode", "gpt_neox", "phi3")
"""Families with one projection for queries, keys and values: only what follows attention is left out."""


def packed(model: PreTrainedModel) -> Packing:
    found = packing_of(model)
    assert found is not None
    return found


def query_names(packing: Packing) -> list[str]:
    last = packing.gates.blocks.module(packing.gates.blocks.num_blocks - 1)
    assert packing.queries is not None
    return [name for name, module in last.named_modules() if any(module is one for one in packing.queries)]


def some_tokens(lengths: np.ndarray = LENGTHS) -> np.ndarray:
    """(B, L) none of row 3, the last of row 1, several of others."""
    inside = np.arange(lengths.max())[None] < lengths[:, None]
    read: np.ndarray = inside & (np.random.default_rng(5).random(inside.shape) < 0.4)
    read[3] = False
    read[1] = np.arange(lengths.max()) == lengths[1] - 1
    return read


def first_tokens(lengths: np.ndarray = LENGTHS) -> np.ndarray:
    read = np.zeros((len(lengths), lengths.max()), bool)
    read[:, 0] = True
    return read


def loss(logits: Tensor, read: np.ndarray, weights: Tensor) -> Tensor:
    """Over the read tokens, or the texts."""
    chosen = logits[torch.from_numpy(read)] if logits.ndim == 3 else logits
    return (chosen * weights[: len(chosen), : chosen.shape[1]]).sum()


def assert_same_as_whole(model: PreTrainedModel, read: np.ndarray, lengths: np.ndarray = LENGTHS) -> None:
    packing, inputs = packed(model), batch(model, lengths)
    weights = torch.randn(int(lengths.sum()), 64, generator=torch.Generator().manual_seed(2))
    whole = loss(logits_of(packing.run(inputs, lengths))[0], read, weights)
    expected = gradients(model, whole)
    found = loss(logits_of(packing.run(inputs, lengths, read=read))[0], read, weights)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    after = gradients(model, found)
    assert after.keys() == expected.keys()
    for name, grad in after.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("case", [case for case in CASES if case.split(":")[0] in PACKED])
def test_read_tokens_and_gradients_are_those_of_the_whole_block(case: str) -> None:
    model = tiny_model(case)
    kind, head = case.split(":")
    lasts = np.arange(LENGTHS.max())[None] == LENGTHS[:, None] - 1
    texts = lasts if kind in ("gpt2", "llama") else first_tokens()
    assert_same_as_whole(model, texts if head == "classify" else some_tokens())
    names = query_names(packed(model))
    assert (names == []) == (kind in TOGETHER)
    assert all("q" in name.split(".")[-1] for name in names)


def rows_of_linear_layers(model: PreTrainedModel, call: Callable[[], object]) -> dict[str, int]:
    """Tokens that each linear layer of the last block was computed for."""
    found: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            found[name] = args[0].shape[1]

        return hook

    last = packed(model).gates.blocks.module(3)
    layers = [(name, one) for name, one in last.named_modules() if isinstance(one, nn.Linear)]
    handles = [one.register_forward_hook(note(name)) for name, one in layers]
    call()
    for handle in handles:
        handle.remove()
    return found


def test_only_keys_and_values_are_computed_for_all_tokens() -> None:
    model = tiny_model("bert:classify")
    packing, inputs = packed(model), batch(model)
    packing.queries  # noqa: B018 - found before layers are watched
    rows = rows_of_linear_layers(model, lambda: packing.run(inputs, LENGTHS, read=first_tokens()))
    assert rows == {
        "attention.self.query": 5,
        "attention.self.key": 29,
        "attention.self.value": 29,
        "attention.output.dense": 5,
        "intermediate.dense": 5,
        "output.dense": 5,
    }


@pytest.mark.parametrize(("case", "query"), [("bert:classify", "attention.self.query"), ("llama:causal", "q_proj")])
def test_adapters_of_the_last_block_are_narrowed_with_their_layers(case: str, query: str) -> None:
    from chainft.config.chain import LoraConfig

    model = tiny_model(case)
    add_adapters(model, [packed(model).gates.blocks.path_of(3)], LoraConfig(r=2), key="lora")
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    assert [name.endswith(query) for name in query_names(packed(model))] == [True]
    assert_same_as_whole(model, first_tokens() if case.endswith("classify") else some_tokens())


def test_only_states_of_the_frozen_blocks_are_needed_below_the_last() -> None:
    model = tiny_model("bert:classify")
    packing, inputs = packed(model), batch(model)
    states = torch.randn(*inputs["input_ids"].shape, 32, generator=torch.Generator().manual_seed(0))
    for start in (2, 3):
        whole = packing.run(inputs, LENGTHS, states=end_to_end(states), start=start).logits
        found = packing.run(inputs, LENGTHS, states=end_to_end(states), start=start, read=first_tokens()).logits
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


def test_dropout_is_drawn_for_the_read_tokens_and_is_the_same_from_the_same_seed() -> None:
    model = tiny_model("bert:classify").train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    packing, inputs = packed(model), batch(model)

    def logits(seed: int) -> Tensor:
        torch.manual_seed(seed)
        found: Tensor = packing.run(inputs, LENGTHS, read=first_tokens()).logits
        return found

    assert torch.equal(logits(1), logits(1)) and not torch.equal(logits(1), logits(2))


def test_a_block_that_cannot_do_with_read_tokens_computes_for_all() -> None:
    model = tiny_model("bert:classify")
    output = packed(model).gates.blocks.module(3).get_submodule("attention.output")

    def join(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.cat(args, dim=-1)[..., :32], args[1]

    output.register_forward_pre_hook(join)
    assert packed(model).queries is None
    assert_same_as_whole(model, first_tokens())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
@settings(max_examples=15, deadline=None)
def test_whatever_tokens_are_read(lengths: list[int], data: st.DataObject) -> None:
    sizes = np.array(lengths)
    inside = np.arange(sizes.max())[None] < sizes[:, None]
    flags = data.draw(st.lists(st.booleans(), min_size=inside.size, max_size=inside.size))
    read = inside & np.array(flags).reshape(inside.shape)
    for case in ("bert:tokens", "llama:causal"):
        if read.any():
            assert_same_as_whole(tiny_model(case), read, sizes)

"""8-bit linear layers: their arithmetic, and models whose blocks have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from chainft.errors import ConfigError
from chainft.stages import int8
from chainft.stages.int8 import Int8Linear, LatestInput, quantise
from chainft.stages.int8_model import to_int8
from chainft.stages.packing import packing_of
from chainft.stages.precision import set_dtype
from chainft.stages.trunk import JointModel, logits_of
from tests.stages.architectures import batch, tiny_model

FAMILIES = (
    "albert:classify", "bert:tokens", "deberta-v2:tokens", "distilbert:tokens", "esm:tokens", "longformer:tokens",
    "mobilebert:tokens", "modernbert:tokens", "mpnet:tokens", "bloom:causal", "gpt2:causal", "gpt_neox:causal",
    "gemma3_text:causal", "llama:causal", "opt:causal", "phi3:causal", "bart:seq2seq", "t5:seq2seq", "umt5:seq2seq",
)  # fmt: skip
"""Each writes its blocks in another way; some read the weight of a layer without calling it."""


def layer(weight: Tensor, bias: Tensor | None = None) -> Int8Linear:
    return Int8Linear(quantise(weight), bias, LatestInput())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_each_row_has_its_own_scale_and_values_by_hand() -> None:
    """Row 0: 127 stands for 2.0, so 1.0 is 63.5, which goes to the even 64. Row 1: 127 for 0.5, -0.1 is -25.4."""
    found = quantise(torch.tensor([[2.0, 1.0, 0.0, -2.0], [0.5, -0.1, 0.25, 0.0]]))
    assert found.values.tolist() == [[127, 64, 0, -127], [127, -25, 64, 0]]
    assert found.largest.tolist() == [[2.0], [0.5]]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 999), st.floats(-8, 8))
def test_a_value_is_off_by_at_most_half_of_a_step(rows: int, width: int, seed: int, size: float) -> None:
    weight = random(rows, width, seed=seed) * 10.0**size
    values, largest = quantise(weight)
    step = largest.double() / 127
    assert ((weight - values * step).abs() <= step * 0.50001).all()
    assert torch.equal(largest[:, 0], weight.abs().amax(1))
    assert values.abs().max() == 127


def test_long_inputs_are_quantised_in_parts_to_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random(37, 16)
    whole = quantise(rows)
    monkeypatch.setattr(int8, "_AT_ONCE", 16 * 5)
    parts = quantise(rows)
    assert torch.equal(parts.values, whole.values)
    assert torch.equal(parts.largest, whole.largest)


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 1, 1), (2, 3, 5), (7, 33, 17), (130, 64, 48)])
def test_the_product_is_that_of_the_integers(tokens: int, inputs: int, outputs: int) -> None:
    weight, bias, given = random(outputs, inputs), random(outputs, seed=1), random(tokens, inputs, seed=2)
    (w, by_output), (x, by_token) = quantise(weight), quantise(given)
    exact = (x.double() @ w.double().t()) * (by_token.double() / 127) * (by_output.double().t() / 127) + bias
    torch.testing.assert_close(layer(weight, bias)(given).double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer(weight)(given).double(), exact - bias, rtol=1e-5, atol=1e-5)


def test_it_is_near_the_float_layer() -> None:
    """Rounding is like noise: of 256 products of normal values, about 1 % of the result's size."""
    weight, given = random(64, 256), random(50, 256, seed=1)
    exact = given @ weight.t()
    assert (layer(weight)(given) - exact).norm() < 0.02 * exact.norm()


def test_the_answer_of_a_row_does_not_depend_on_the_others() -> None:
    made, rows = layer(random(48, 32), random(48)), random(40, 32, seed=1)
    whole = made(rows[None])[0]
    for start, stop in ((0, 1), (3, 5), (7, 40)):
        loud = torch.cat([rows[start:stop], 1e6 * random(9, 32, seed=2)])
        assert torch.equal(made(rows[start:stop]), whole[start:stop])
        assert torch.equal(made(loud)[: stop - start], whole[start:stop])


def test_rows_of_zeros_give_the_bias() -> None:
    bias = random(8)
    assert torch.equal(layer(random(8, 4), bias)(torch.zeros(3, 4)), bias.expand(3, 8))
    assert torch.equal(layer(torch.zeros(8, 4), bias)(random(3, 4)), bias.expand(3, 8))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_seen_and_in_its_row(value: float) -> None:
    made, rows = layer(random(8, 4), random(8)), random(3, 4, seed=1)
    expected = made(rows.clone())
    rows[1, 2] = value
    found = made(rows)
    assert not found[1].isfinite().any()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


def test_layers_that_read_the_same_tensor_quantise_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []
    monkeypatch.setattr(int8, "quantise", lambda rows: calls.append(rows) or quantise(rows))
    latest = LatestInput()
    key, value = (Int8Linear(quantise(random(8, 4, seed=seed)), None, latest) for seed in (0, 1))
    same, other = random(3, 4, seed=2), random(3, 4, seed=3)
    assert torch.equal(value(same), layer(random(8, 4, seed=1))(same))
    calls.clear()
    key(other), value(other), key(same), value(same)
    assert len(calls) == 2
    assert torch.equal(value(same), layer(random(8, 4, seed=1))(same))


def logits(model: PreTrainedModel, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [one.float() for one in logits_of(model(**inputs))]


@pytest.mark.parametrize("case", FAMILIES)
def test_a_model_in_8_bits_answers_nearly_as_before(case: str) -> None:
    model, inputs = tiny_model(case), batch(case)
    before = logits(model, inputs)
    to_int8(model)
    for old, new in zip(before, logits(model, inputs), strict=True):
        assert not torch.equal(old, new)
        assert (old - new).norm() < 0.04 * old.norm()


def num_bytes(model: nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in {*model.parameters(), *model.buffers()})


def test_only_layers_of_the_blocks_are_changed_and_take_a_quarter_of_the_memory() -> None:
    model = tiny_model("llama:causal")
    rest = num_bytes(model) - num_bytes(model.model.layers)
    linear = sum(4 * one.weight.numel() for one in model.model.layers.modules() if isinstance(one, nn.Linear))
    norms = num_bytes(model.model.layers) - linear
    gain = to_int8(model)
    factors = sum(4 * one.out_features for one in model.modules() if isinstance(one, Int8Linear))
    assert type(model.lm_head) is nn.Linear
    assert gain.num_layers == 4 * 7
    assert num_bytes(model) == rest + norms + linear // 4 + factors


def test_gpt2_has_its_weights_the_other_way_round() -> None:
    model = tiny_model("gpt2:causal")
    weight = model.transformer.h[1].mlp.c_fc.weight.detach().clone()
    assert weight.shape == (32, 128)
    to_int8(model)
    found = model.transformer.h[1].mlp.c_fc
    assert torch.equal(found.weight, quantise(weight.t().contiguous()).values)


def test_layers_that_share_a_weight_share_it_in_8_bits() -> None:
    model = tiny_model("bert:tokens")
    blocks = model.bert.encoder.layer
    blocks[2].output.dense.weight = blocks[1].output.dense.weight
    blocks[2].output.dense.bias = blocks[1].output.dense.bias
    to_int8(model)
    assert blocks[2].output.dense is blocks[1].output.dense
    assert blocks[3].output.dense is not blocks[1].output.dense


def test_heads_on_one_trunk_have_it_in_8_bits() -> None:
    model = JointModel({"tokens": tiny_model("bert:tokens"), "texts": tiny_model("bert:classify")})
    inputs = {name: one for name, one in batch("bert:tokens").items() if name != "labels"}
    with torch.no_grad():
        before = model(**inputs)
        to_int8(model)
        after = model(**inputs)
    for name in ("tokens", "texts"):
        assert not torch.equal(after[name].logits, before[name].logits)
        torch.testing.assert_close(after[name].logits, before[name].logits, rtol=0.02, atol=0.001)


def test_padding_free_batches_and_a_last_block_for_read_tokens_are_found_as_with_floats() -> None:
    """They are tried without rounding, which makes much of a little difference."""
    lengths = np.array([7, 3, 11, 5])
    inside = torch.from_numpy(np.arange(11)[None] < lengths[:, None])
    ids = torch.randint(5, 64, inside.shape, generator=torch.Generator().manual_seed(1)) * inside
    inputs = {"input_ids": ids, "attention_mask": inside.long()}
    model = tiny_model("bert:classify")
    for parameter in model.bert.encoder.parameters():
        parameter.data.mul_(8 if parameter.ndim == 2 else 1)  # Else the blocks do next to nothing.
    to_int8(model)
    packing = packing_of(model)
    assert packing is not None
    assert packing.queries is not None
    assert [type(one) for one in packing.queries] == [Int8Linear]
    read = (np.arange(11) == 0)[None] & inside.numpy()
    with torch.inference_mode():
        padded = model(**inputs).logits
        for found in (packing.run(inputs, lengths), packing.run(inputs, lengths, read=read)):
            torch.testing.assert_close(found.logits, padded, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("case", ["ibert:tokens", "falcon:causal"])
def test_a_model_with_linear_layers_of_its_own_is_refused(case: str) -> None:
    with pytest.raises(ConfigError, match="--precision int8 has no effect: chainft knows no linear layer"):
        to_int8(tiny_model(case))


def test_blocks_in_another_floating_type_are_refused() -> None:
    model = tiny_model("bert:tokens")
    set_dtype(model, ["bert.encoder.layer.1"], "bfloat16")
    with pytest.raises(ConfigError, match=r"needs weights in float32, and bert\.encoder\.layer\.1\..* is in bfloat16"):
        to_int8(model)


def test_a_model_on_another_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="computes on CPUs, and the model is on meta") as caught:
        to_int8(tiny_model("bert:tokens").to("meta"))
    assert "train.device=cpu" in caught.value.render()


def test_a_model_whose_blocks_are_not_found_is_refused() -> None:
    model = tiny_model("bert:tokens")
    model.bert.encoder.layer = nn.ModuleList()
    with pytest.raises(ConfigError, match="does not find the blocks of BertForTokenClassification"):
        to_int8(model)


def test_a_processor_whose_products_overflow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda one, other: exact(one, other).clamp(max=2**15 - 1))
    with pytest.raises(ConfigError, match="overflow on this processor"):
        to_int8(tiny_model("bert:tokens"))

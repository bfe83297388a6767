"""Blocks in 16 bits beside others in float32: what enters and leaves them."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from chainft.errors import ConfigError
from tests.stages.architectures import tiny_model
from tests.stages.test_chain import bert, chained


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_row_that_is_masked_as_a_whole_stays_finite(dtype: str, attention: Literal["eager", "sdpa"]) -> None:
    """Padding on the left gives a decoder such rows; the least float32 would be -inf in 16 bits."""
    model = tiny_model("gpt2:causal", attn_implementation=attention)
    ids = torch.tensor([[0, 0, 5, 6], [5, 6, 7, 8]])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    plain = model(**inputs).logits
    chained(model, split=2, stages={"stage0": {"frozen": True, "dtype": dtype}})
    found = model(**inputs).logits
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, 2:], plain[:, 2:], atol=0.02, rtol=0.02)


def test_gradients_flow_through_a_frozen_stage_in_sixteen_bits() -> None:
    plain, model = bert().eval(), bert().eval()
    chained(model, split=2, stages={"stage1": {"frozen": True, "dtype": "bfloat16"}})
    gradients = []
    for one in (plain, model):
        one(input_ids=torch.tensor([[5, 6, 7]])).logits.square().sum().backward()
        gradients.append(one.bert.encoder.layer[0].output.dense.weight.grad)
    assert gradients[1].dtype == torch.float32
    torch.testing.assert_close(gradients[1], gradients[0], atol=0.05 * float(gradients[0].abs().max()), rtol=0.1)


@pytest.mark.parametrize("setting", [{"dtype": "bfloat16", "frozen": True}, {"gradient_checkpointing": True}])
def test_settings_of_blocks_are_refused_where_there_are_none(setting: dict[str, object]) -> None:
    stages = {"words": {"blocks": "embeddings", **setting}, "rest": {"blocks": ":, head"}}
    if "frozen" not in setting:
        stages = {"rest": {"blocks": "embeddings, :"}, "words": {"blocks": "head", **setting}}
    with pytest.raises(ConfigError, match="the stage has none"):
        chained(bert(), order=list(stages), stages=stages).set_recomputation()

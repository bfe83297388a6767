"""What several stages of a model compute with by its architecture: one stage decides, and the others hear of it."""

from __future__ import annotations

from typing import Any

import pytest

from chainft.errors import ConfigError
from tests.stages.architectures import tiny_model
from tests.stages.test_chain import chained, llama, two


def test_a_frozen_head_that_the_embeddings_would_train_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"freezes lm_head.weight, which stage 'base' .* trains"):
        chained(llama(), **two({}, {"frozen": True}))


def test_a_pattern_that_leaves_the_tied_head_out_is_taken() -> None:
    model = llama()
    chained(model, **two({}, {"frozen": r"layers|norm"}))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "model.embed_tokens.weight" in trained
    assert not any(".layers.2." in name or name == "model.norm.weight" for name in trained)


def test_a_head_frozen_with_the_embeddings_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = llama()
    chained(model, **two({"frozen": True}, {}))
    assert not model.lm_head.weight.requires_grad
    assert "stage top computes with lm_head.weight, which is in stage base and frozen there" in caplog.text


def test_a_rate_that_the_tied_head_does_not_get_is_told(caplog: pytest.LogCaptureFixture) -> None:
    chained(llama(), **two({}, {"lr": 1e-3}))
    assert "trained at its rates" in caplog.text


def test_no_word_where_stages_share_nothing(caplog: pytest.LogCaptureFixture) -> None:
    chained(tiny_model("bert:tokens"), **two({"frozen": True}, {"lr": 1e-3}))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"stage1": {"frozen": True}}, "chain.stages.stage1.frozen"),
        ({"stage1": {"lr": 1e-3}}, "chain.stages.stage1.lr"),
        ({"stage0": {"lora": {"r": 2}}}, "chain.stages.stage1.lora"),
        ({"stage1": {"dropout": 0.2}}, "chain.stages.stage1.dropout"),
    ],
)
def test_one_block_gone_through_in_two_stages_has_one_policy(settings: dict[str, Any], key: str) -> None:
    """ALBERT: blocks 0 and 1 are one module."""
    with pytest.raises(ConfigError) as caught:
        chained(tiny_model("albert:classify"), split=4, stages=settings)
    assert key in [problem.key for problem in caught.value.problems]


def test_stages_of_one_module_that_agree_are_taken() -> None:
    same = {"frozen": True}
    chained(tiny_model("albert:classify"), split=4, stages={"stage0": same, "stage1": same})

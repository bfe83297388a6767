"""What sharing, repeating and adapters do to each other, and to what a model never trains."""

from __future__ import annotations

from typing import Any

import pytest

from chainft.errors import ConfigError
from tests.stages.architectures import tiny_model
from tests.stages.test_chain import bert, chained, two


def test_one_pattern_freezes_shared_parameters_in_both_stages() -> None:
    model = bert()
    chained(model, **two({"frozen": "LayerNorm"}, {"frozen": "LayerNorm", "share": {"with": "base"}}))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("LayerNorm" not in name)


def test_the_stage_that_is_shared_with_may_come_later() -> None:
    """Its parameters then belong to the sharing stage, the first that computes with them; both have one pattern."""
    model = bert()
    chained(model, **two({"frozen": "attention", "share": {"with": "top"}}, {"frozen": "attention"}))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("attention" not in name)


@pytest.mark.parametrize("sharing", ["base", "top"])
def test_a_pattern_that_finds_nothing_in_sharing_stages_is_refused(sharing: str) -> None:
    stages: dict[str, Any] = {"base": {"frozen": "atention"}, "top": {"frozen": "atention"}}
    stages[sharing]["share"] = {"with": "top" if sharing == "base" else "base"}
    with pytest.raises(ConfigError, match="is found in no parameter's name"):
        chained(bert(), **two(stages["base"], stages["top"]))


def test_sharing_does_not_take_repeated_blocks_apart() -> None:
    stages = {"a": {"blocks": "embeddings, :2"}, "b": {"blocks": "2:, head", "repeat": 2, "share": {"with": "a"}}}
    with pytest.raises(ConfigError, match="one block that is repeated"):
        chained(bert(3), order=list(stages), stages=stages)


def test_a_repeated_stage_shares_with_a_stage_repeated_as_often() -> None:
    stages: dict[str, Any] = {"a": {"blocks": "embeddings, 0", "repeat": 2}, "b": {"blocks": "1, head", "repeat": 2}}
    stages["b"]["share"] = {"with": "a"}
    model = bert(2)
    chained(model, order=list(stages), stages=stages)
    assert len({id(layer.output.dense.weight) for layer in model.bert.encoder.layer}) == 1
    assert len(model.bert.encoder.layer) == 4


def test_a_model_with_a_weight_for_each_block_outside_of_them_is_not_repeated() -> None:
    """Its config, with more blocks, would build another shape than the folder has."""
    with pytest.raises(ConfigError, match=r"contact_head\.regression\.weight depends on the number of blocks"):
        chained(tiny_model("esm:tokens"), split=1, stages={"stage0": {"repeat": 2}})


@pytest.mark.parametrize("other", [{"r": 2, "alpha": 64}, {"r": 4}])
def test_tied_layers_with_unlike_adapters_are_refused(other: dict[str, Any]) -> None:
    """They would compute apart, and be merged as one."""
    with pytest.raises(ConfigError, match="have one weight, but adapters of rank"):
        chained(bert(), **two({"lora": {"r": 2}}, {"lora": other, "share": {"with": "base"}}))


def test_lora_for_a_stage_without_blocks_is_refused() -> None:
    stages = {"words": {"blocks": "embeddings", "lora": {}}, "rest": {"blocks": ":, head"}}
    with pytest.raises(ConfigError, match="no block with a linear layer"):
        chained(bert(), order=list(stages), stages=stages)


def test_position_tables_that_a_model_never_trains_are_not_unfrozen() -> None:
    model = tiny_model("marian:seq2seq")
    fixed = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    chain = chained(model, split=2, stages={"stage0": {"frozen": True, "unfreeze_at": 0.5}})
    chain.conduct().begin(3, 4)
    assert fixed
    assert not any(parameter.requires_grad or chain.trains(parameter) for parameter in fixed)
    assert model.get_submodule("model.encoder.layers.0.fc1").get_parameter("weight").requires_grad

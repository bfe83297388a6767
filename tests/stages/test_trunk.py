"""One trunk for several heads computes what each whole model computes by itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from chainft.errors import ModelError
from chainft.stages.policy import recompute_all
from chainft.stages.trunk import JointModel
from chainft.stages.trunk_load import join
from tests.stages.architectures import CASES, HEADS, SPECIAL, batch, tiny_config, tiny_model
from tests.stages.test_chain import chained


def _families() -> Iterator[str]:
    """Architectures that have a head for tokens and one for texts, and one stack of blocks."""
    for kind in dict.fromkeys(case.split(":")[0] for case in CASES):
        config = tiny_config(kind)
        autos = [getattr(transformers, HEADS[head]) for head in ("tokens", "classify")]
        if all(type(config) in auto._model_mapping for auto in autos) and not config.is_encoder_decoder:
            yield kind


REFUSED = ("longformer",)
"""Families whose heads make the trunk compute different things."""
FAMILIES = [kind for kind in _families() if kind not in REFUSED]


def pair(kind: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    return tiny_model(f"{kind}:tokens"), tiny_model(f"{kind}:classify")


def inputs(kind: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in batch(f"{kind}:tokens").items() if name != "labels"}


def test_there_are_many_families() -> None:
    assert len(FAMILIES) >= 25 and {"bert", "gpt2", "llama", "deberta-v2", "modernbert"} <= set(FAMILIES)
    assert SPECIAL


@pytest.mark.parametrize("kind", FAMILIES)
def test_heads_on_one_trunk_answer_as_whole_models(kind: str) -> None:
    tokens, texts = pair(kind)
    model = JointModel({"tokens": tokens, "texts": texts}).eval()
    given = inputs(kind)
    with torch.no_grad():
        output = model(**given)
        for name, whole in (("tokens", tokens), ("texts", texts)):
            assert torch.equal(output[name].logits, whole(**given).logits), name


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "albert", "distilbert"])
def test_gradients_of_the_trunk_are_the_sum_of_both(kind: str) -> None:
    tokens, texts = pair(kind)
    model = JointModel({"tokens": tokens, "texts": texts}).eval()
    given = inputs(kind)
    expected: dict[str, Tensor] = {}
    for whole in (tokens, texts):
        whole(**given).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            expected[name] = parameter.grad.clone()
    model.zero_grad()
    output = model(**given)
    (output["tokens"].logits.square().sum() + output["texts"].logits.square().sum()).backward()
    for name, parameter in model.named_parameters():
        if name in expected:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_each_head_answers_for_its_own_rows() -> None:
    tokens, texts = pair("bert")
    model = JointModel({"tokens": tokens, "texts": texts}).eval()
    ids = torch.randint(5, 60, (3, 8))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    own = {"input_ids": ids[1:2, :5], "attention_mask": mask[1:2, :5]}
    with torch.no_grad():
        output = model(ids, mask, parts={"texts": (torch.tensor([1]), own)})
        assert list(output) == ["texts"]
        torch.testing.assert_close(output["texts"].logits, texts(**own).logits, rtol=1e-5, atol=1e-6)


def test_the_trunk_is_one_set_of_parameters_and_poolers_stay_apart() -> None:
    tokens, texts = pair("bert")
    model = JointModel({"tokens": tokens, "texts": texts})
    own = [name for name, _ in model.named_parameters() if name.startswith("heads.texts.")]
    assert sorted(name.removeprefix("heads.texts.") for name in own) == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "classifier.bias",
        "classifier.weight",
    ]
    assert tokens.bert.encoder is texts.bert.encoder  # type: ignore[union-attr]


def test_recomputed_blocks_give_the_same_gradients() -> None:
    grads = []
    for recomputed in (False, True):
        model = JointModel(dict(zip(("tokens", "texts"), pair("bert"), strict=True))).train()
        if recomputed:
            recompute_all(model)
        output = model(**inputs("bert"))
        sum(one.logits.square().sum() for one in output.values()).backward()
        grads.append([p.grad for p in model.parameters()])
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_blocks_of_the_trunk_are_repeated_for_all_heads(kind: str) -> None:
    tokens, texts = pair(kind)
    model = JointModel({"tokens": tokens, "texts": texts}).eval()
    stages = {"low": {"blocks": "embeddings, :2", "repeat": 2}, "top": {"blocks": "2:, head"}}
    chained(model, order=list(stages), stages=stages)
    given = inputs(kind)
    with torch.no_grad():
        output = model.eval()(**given)
        for name in ("tokens", "texts"):
            whole = model.whole(name)
            assert whole.config.num_hidden_layers == 6
            torch.testing.assert_close(output[name].logits, whole(**given).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", REFUSED)
def test_heads_that_change_the_trunk_are_refused(kind: str) -> None:
    with pytest.raises(ModelError, match="makes its trunk compute something else"):
        JointModel(dict(zip(("tokens", "texts"), pair(kind), strict=True)))


def test_models_that_share_no_trunk_are_refused() -> None:
    with pytest.raises(ModelError, match="they share no trunk"):
        JointModel({"one": tiny_model("bert:tokens"), "other": tiny_model("electra:classify")})
    with pytest.raises(ModelError, match="encoder-decoder"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        JointModel({"one": tiny_model("bart:classify"), "other": tiny_model("bart:classify")})


def test_saved_models_with_unlike_trunks_are_not_joined() -> None:
    one, other = pair("bert")
    other.load_state_dict({name: value for name, value in one.state_dict().items() if "bert." in name}, strict=False)
    where = {"one": "here", "other": "there"}
    join({"one": one, "other": other}, where=where)
    one, other = pair("bert")
    other.load_state_dict({name: value for name, value in one.state_dict().items() if "bert." in name}, strict=False)
    with torch.no_grad():
        other.bert.encoder.layer[1].output.dense.bias[3] += 1e-6  # type: ignore[union-attr,index,operator]
    with pytest.raises(ModelError, match=r"bert.encoder.layer.1.output.dense.bias of 'here' and 'there' differ"):
        join({"one": one, "other": other}, where=where)

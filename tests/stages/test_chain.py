"""Chains over one model: policies, ties, repeats, adapters, and what they leave of the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForTokenClassification, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from chainft.config.rules import parse_run
from chainft.config.run import RunConfig
from chainft.errors import ConfigError
from chainft.stages.chain import Chain, build_chain
from chainft.stages.dropout import QuickDropout
from chainft.stages.sharing import retie, untied_state

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 0, 0]])
MASK = (IDS != 0).long()


def bert(num_blocks: int = 4) -> BertForTokenClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=num_blocks,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
    )
    return BertForTokenClassification(config)


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def configured(chain: Mapping[str, Any]) -> RunConfig:
    return parse_run({"task": {"name": "ner"}, "data": {"name": "conll", "train": "x"}, "chain": dict(chain)})


def chained(model: PreTrainedModel, **chain: Any) -> Chain:
    return build_chain(model, configured(chain))


def two(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    stages = {"base": {"blocks": "embeddings, :2", **base}, "top": {"blocks": "2:, head", **top}}
    return {"order": ["base", "top"], "stages": stages}


def loss(model: PreTrainedModel) -> torch.Tensor:
    return model(input_ids=IDS, attention_mask=MASK).logits.square().sum()


def test_each_parameter_is_in_one_stage() -> None:
    model = bert()
    chain = chained(model, split=3)
    names = [name for part in chain.parts for name in part.parameters]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert "bert.embeddings.word_embeddings.weight" in chain.parts[0].parameters
    assert "classifier.weight" in chain.parts[2].parameters


def test_frozen_stage_gets_no_gradient() -> None:
    model = bert()
    chain = chained(model, **two({"frozen": True}, {}))
    loss(model).backward()
    assert all(parameter.grad is None for parameter in chain.parts[0].parameters.values())
    assert all(parameter.grad is not None for parameter in chain.parts[1].parameters.values())


def test_nothing_is_saved_before_the_first_trained_parameter() -> None:
    model = bert()
    chained(model, **two({"frozen": True}, {}))
    flags = []
    model.bert.encoder.layer[2].register_forward_pre_hook(lambda _, args: flags.append(args[0].requires_grad))
    loss(model)
    assert flags == [False]


def test_a_pattern_freezes_what_it_finds() -> None:
    model = bert()
    chain = chained(model, **two({"frozen": r"LayerNorm|embeddings"}, {}))
    for name, parameter in chain.parts[0].parameters.items():
        assert parameter.requires_grad == ("LayerNorm" not in name and "embeddings" not in name)


def test_a_pattern_that_finds_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="in no parameter's name"):
        chained(bert(), **two({"frozen": "layernorm_1"}, {}))


def test_a_slip_for_true_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        chained(bert(), **two({"frozen": "ture"}, {}))
    assert caught.value.problems[0].help == "did you mean 'true'?"


def test_the_models_own_tie_is_kept_across_stages() -> None:
    model = llama()
    chain = chained(model, split=2)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert chain.describe()[0]["shared_with"] == ["stage1"]


def test_a_chain_without_policies_changes_no_number() -> None:
    plain, model = bert().eval(), bert().eval()
    chained(model, split=4)
    assert torch.equal(loss(plain), loss(model))


def test_repeated_blocks_compute_as_if_called_again() -> None:
    plain, model = llama().eval(), llama().eval()
    stages = {
        "low": {"blocks": "embeddings, :1"},
        "middle": {"blocks": "1:3", "repeat": 3},
        "top": {"blocks": "3:, head"},
    }
    chain = chained(model, order=list(stages), stages=stages)
    layers = plain.model.layers
    plain.model.layers = torch.nn.ModuleList([layers[0], *[layers[1], layers[2]] * 3, layers[3]])
    plain.config.num_hidden_layers = model.config.num_hidden_layers = 8
    arguments = {"input_ids": IDS, "attention_mask": MASK, "use_cache": False}
    assert torch.equal(plain(**arguments).logits, model(**arguments).logits)
    assert model.model.layers[5].mlp.up_proj.weight is model.model.layers[1].mlp.up_proj.weight
    assert chain.describe()[1]["parameters"] == sum(p.numel() for m in (layers[1], layers[2]) for p in m.parameters())


def test_a_repeated_model_is_one_that_its_config_builds(tmp_path: Path) -> None:
    model = llama().eval()
    stages = {"all": {"blocks": "embeddings, :, head", "repeat": 2}}
    chain = chained(model, order=["all"], stages=stages)
    model.save_pretrained(tmp_path, state_dict=untied_state(model, chain.ties))
    again = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert again.config.num_hidden_layers == 8
    assert torch.equal(loss(model), loss(again))
    generated = [one.generate(IDS[:1], max_new_tokens=5, do_sample=False, pad_token_id=0) for one in (model, again)]
    assert torch.equal(*generated)


def test_shared_stages_have_one_tensor_and_its_gradient_is_the_sum() -> None:
    model = bert()
    chain = chained(model, **two({}, {"share": {"with": "base"}}))
    layers = model.bert.encoder.layer
    assert layers[2].output.dense.weight is layers[0].output.dense.weight
    assert len(chain.ties) == sum(1 for _ in layers[0].parameters()) * 2
    loss(model).backward()
    summed = layers[0].output.dense.weight.grad
    apart = bert()
    apart.load_state_dict(model.state_dict())
    loss(apart.eval()).backward()
    model.zero_grad()
    loss(model.eval()).backward()
    separate = apart.bert.encoder.layer
    assert summed is not None
    torch.testing.assert_close(
        layers[0].output.dense.weight.grad,
        separate[0].output.dense.weight.grad + separate[2].output.dense.weight.grad,
    )


def test_sharing_by_pattern_ties_only_what_matches() -> None:
    model = bert()
    chained(model, **two({}, {"share": {"with": "base", "parameters": r".*attention.*"}}))
    layers = model.bert.encoder.layer
    assert layers[3].attention.self.query.weight is layers[1].attention.self.query.weight
    assert layers[3].output.dense.weight is not layers[1].output.dense.weight


def test_a_broken_tie_is_refused_at_load(tmp_path: Path) -> None:
    model = bert()
    chain = chained(model, **two({}, {"share": {"with": "base"}}))
    model.save_pretrained(tmp_path, state_dict=untied_state(model, chain.ties))
    again = BertForTokenClassification.from_pretrained(tmp_path)
    retie(again, chain.ties, where="x")
    assert again.bert.encoder.layer[2].output.dense.weight is again.bert.encoder.layer[0].output.dense.weight
    tampered = BertForTokenClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        tampered.bert.encoder.layer[2].output.dense.weight[0, 0] += 1
    with pytest.raises(Exception, match="were one parameter"):
        retie(tampered, chain.ties, where="x")


def test_adapters_train_nothing_but_themselves_and_the_head() -> None:
    model = bert()
    chained(model, **two({}, {"lora": {"r": 2, "target_modules": ["query", "value"]}}))
    top = {name for name, p in model.named_parameters() if p.requires_grad and ".layer.0." not in name}
    top = {name for name in top if ".layer.1." not in name and "embeddings" not in name}
    assert all(".lora_" in name or name.startswith("classifier.") for name in top)
    assert sum(".lora_A." in name for name in top) == 4


def test_merged_adapters_compute_what_the_adapted_model_computed() -> None:
    model = bert().eval()
    chain = chained(model, **two({"lora": {"r": 2}}, {"lora": {"r": 2}}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    before = model(input_ids=IDS, attention_mask=MASK).logits
    chain.merge()
    assert not any("lora" in name or "base_layer" in name for name in model.state_dict())
    torch.testing.assert_close(model(input_ids=IDS, attention_mask=MASK).logits, before, rtol=1e-5, atol=1e-6)


def test_tied_blocks_get_one_adapter_and_are_merged_once() -> None:
    model = bert().eval()
    same = {"lora": {"r": 2}}
    chain = chained(model, **two(same, {**same, "share": {"with": "base"}}))
    layers = model.bert.encoder.layer
    one, other = layers[2].output.dense, layers[0].output.dense
    assert one.lora_B.default.weight is other.lora_B.default.weight
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    before = model(input_ids=IDS, attention_mask=MASK).logits
    chain.merge()
    assert layers[2].output.dense.weight is layers[0].output.dense.weight
    torch.testing.assert_close(model(input_ids=IDS, attention_mask=MASK).logits, before, rtol=1e-5, atol=1e-6)


def test_an_adapter_on_one_of_two_tied_stages_is_refused() -> None:
    with pytest.raises(ConfigError, match="only one of them has an adapter"):
        chained(bert(), **two({}, {"lora": {"r": 2}, "share": {"with": "base"}}))


def test_a_stage_is_unfrozen_in_time_and_kept_in_its_mode() -> None:
    model = bert()
    chain = chained(model, **two({"frozen": True, "unfreeze_at": 0.5}, {}))
    conduct = chain.conduct()
    base = list(chain.parts[0].parameters.values())
    flags = []
    for step in range(4):
        conduct.begin(step, 4)
        flags.append(base[0].requires_grad)
    assert flags == [False, False, True, True]
    assert all(chain.trains(parameter) for parameter in base)


def test_evaluation_mode_switches_dropout_off_in_the_stage_alone() -> None:
    model = bert()
    chain = chained(model, **two({"frozen": True, "eval_mode": True}, {}))
    model.train()
    chain.conduct().begin(0, 4)
    layers = model.bert.encoder.layer
    assert not model.bert.embeddings.dropout.training
    assert not layers[1].output.dropout.training
    assert layers[2].output.dropout.training
    assert model.dropout.training


def test_dropout_of_a_stage_reaches_modules_and_attention() -> None:
    model = bert()
    chained(model, **two({"dropout": 0.0}, {}))
    layers = model.bert.encoder.layer
    assert layers[0].output.dropout.p == 0.0
    assert layers[0].attention.self.dropout.p == 0.0
    assert layers[2].output.dropout.p == 0.1


def test_recomputed_activations_change_no_gradient() -> None:
    plain, model = bert().train(), bert().train()
    chained(plain, **two({}, {}))
    chained(model, **two({"gradient_checkpointing": True}, {})).set_recomputation()
    assert {type(one) for one in model.modules() if isinstance(one, nn.Dropout)} == {QuickDropout}
    assert [layer.gradient_checkpointing for layer in model.bert.encoder.layer] == [True, True, False, False]
    for one in (plain, model):
        torch.manual_seed(3)
        loss(one).backward()
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_frozen_stage_in_sixteen_bits_leaves_the_others_in_float32() -> None:
    model = bert().eval()
    reference = loss(bert().eval())
    chain = chained(model, **two({"frozen": True, "dtype": "bfloat16"}, {}))
    assert model.bert.encoder.layer[0].output.dense.weight.dtype == torch.bfloat16
    assert model.bert.encoder.layer[2].output.dense.weight.dtype == torch.float32
    assert chain.dtypes() == {f"bert.encoder.layer.{i}": "bfloat16" for i in (0, 1)}
    value = loss(model)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, reference, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("chain", "key"),
    [
        ({"split": 9}, "chain.split"),
        ({"split": 2, "stages": {"stage2": {"lr": 1e-3}}}, "chain.stages.stage2"),
        (two({}, {"share": {"with": "base", "parameters": "nothing"}}), "chain.stages.top.share.parameters"),
        (two({"lora": {"target_modules": ["qeury"]}}, {}), "chain.stages.base.lora.target_modules"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_with_its_key(chain: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chained(bert(), **chain)
    assert caught.value.problems[0].key == key

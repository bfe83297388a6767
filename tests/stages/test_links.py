"""Linked models: what flows between them, by hand; sharing and saving; what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForTokenClassification, AutoTokenizer, BertConfig, BertModel

from chainft.config.chain import AuxiliaryConfig, ChainConfig, ShareConfig, StageConfig
from chainft.config.run import DataConfig, ModelConfig, RunConfig
from chainft.errors import ChainftError, ConfigError, ModelError
from chainft.models.load_headed import load_trained
from chainft.stages.chain import Chain, build_chain
from chainft.stages.exits import sureness
from chainft.stages.int8_model import to_int8
from chainft.stages.links import LinkedModel, ScalarMix, stage_of
from chainft.stages.links_load import build_linked, check_models, read_tokenizer
from chainft.stages.loss import loss_of
from chainft.tasks.base import Labels
from chainft.tasks.ner import Ner, NerConfig

NAMES = ("O", "B-PER", "I-PER")


@pytest.fixture(scope="module")
def wide_encoder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A body with the tiny encoder's tokenizer, twice as wide and with three blocks."""
    folder = tmp_path_factory.mktemp("wide")
    config = BertConfig.from_pretrained(tiny_encoder)
    config.hidden_size, config.num_hidden_layers = 64, 3
    torch.manual_seed(1)
    BertModel(config).save_pretrained(folder)
    for file in tiny_encoder.glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def run_config(model: Path, stages: dict[str, StageConfig], **chain: Any) -> RunConfig:
    first = next(iter(stages))
    stages = {**stages, first: replace(stages[first], model=stages[first].model or str(model))}
    return RunConfig(
        task=NerConfig(),
        data=DataConfig(name="conll"),
        model=ModelConfig(path=str(model)),
        chain=ChainConfig(order=tuple(stages), stages=stages, **chain),
    )


def ner(model: Path) -> Ner:
    task = Ner(NerConfig())
    task.labels = Labels(NAMES)
    task.prepare(AutoTokenizer.from_pretrained(model), max_length=64)
    return task


def linked(model: Path, stages: dict[str, StageConfig], **chain: Any) -> tuple[LinkedModel, Chain]:
    """The model in evaluation mode, and its chain."""
    config = run_config(model, stages, **chain)
    loaded = build_linked(config, ner(model), seed=3)
    made = build_chain(loaded.model, config)
    assert isinstance(loaded.model, LinkedModel)
    loaded.model.train(False)
    return loaded.model, made


def two(**second: Any) -> dict[str, StageConfig]:
    return {"first": StageConfig(), "second": StageConfig(**second)}


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    """Two texts, the second with padding."""
    ids = torch.tensor([[2, 10, 11, 12, 13, 3], [2, 20, 21, 3, 0, 0]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "token_type_ids": torch.zeros_like(ids)}


def by_hand(model: LinkedModel, inputs: dict[str, Tensor], *, residual: bool) -> Tensor:
    """The second BERT's blocks and head on the first one's output; 4D mask: 0 where seen, the least float elsewhere."""
    first: Any = model.stages["first"]
    second: Any = model.stages["second"]
    hidden = first(**inputs).last_hidden_state
    if residual:
        hidden = hidden + second.bert.embeddings(inputs["input_ids"], inputs["token_type_ids"])
    hidden_away = torch.finfo(hidden.dtype).min * (1 - inputs["attention_mask"][:, None, None, :].float())
    for block in second.bert.encoder.layer:
        out = block(hidden, hidden_away)
        hidden = out[0] if isinstance(out, tuple) else out
    logits: Tensor = second.classifier(hidden)
    return logits


@pytest.mark.parametrize("residual", [False, True])
def test_the_second_model_computes_on_the_output_of_the_first(
    tiny_encoder: Path, inputs: dict[str, Tensor], residual: bool
) -> None:
    model, _ = linked(tiny_encoder, two(residual=residual))
    found = model(**inputs).logits
    expected = by_hand(model, inputs, residual=residual)
    seen = inputs["attention_mask"].bool()
    assert found.shape == (2, 6, 3)
    torch.testing.assert_close(found[seen], expected[seen], atol=1e-5, rtol=0)


def test_models_are_left_as_they_were(tiny_encoder: Path, inputs: dict[str, Tensor]) -> None:
    model, _ = linked(tiny_encoder, two())
    names = list(model.state_dict())
    alone = model.stages["second"](**inputs).logits
    model(**inputs)
    assert list(model.state_dict()) == names
    assert torch.equal(model.stages["second"](**inputs).logits, alone)


def test_padding_and_company_change_no_answer(tiny_encoder: Path, inputs: dict[str, Tensor]) -> None:
    model, _ = linked(tiny_encoder, two(receive="all", residual=True))
    together = model(**inputs).logits[1, :4]
    alone = model(**{name: tensor[1:, :4] for name, tensor in inputs.items()}).logits[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_recomputed_activations_change_no_gradient(tiny_encoder: Path, inputs: dict[str, Tensor]) -> None:
    """The gate stands before the checkpoint, so that the backward pass sees it too."""
    gradients = []
    for recomputed in (False, True):
        model, _ = linked(tiny_encoder, two(gradient_checkpointing=recomputed, dropout=0.0))
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model(**inputs).logits.sum().backward()
        gradients.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_a_mix_is_the_scaled_weighted_sum() -> None:
    """Peters et al. 2018, equation 1."""
    mix = ScalarMix(2)
    one, other = torch.ones(1, 2, 3), torch.full((1, 2, 3), 5.0)
    assert torch.equal(mix([one, other]), torch.full((1, 2, 3), 3.0))
    with torch.no_grad():
        mix.weights.copy_(torch.tensor([0.0, 3.0]).log().clamp(min=-100.0))
        mix.scale.fill_(2.0)
    torch.testing.assert_close(mix([one, other]), torch.full((1, 2, 3), 10.0))


def test_the_third_stage_mixes_the_outputs_of_both_before(tiny_encoder: Path, inputs: dict[str, Tensor]) -> None:
    stages = {**two(), "third": StageConfig(receive="all")}
    model, _ = linked(tiny_encoder, stages)
    hidden: dict[str, Tensor] = {}
    for name in ("first", "second"):
        _, hidden[name] = model.run_stage(name, inputs, hidden)
    received = model.received("third", hidden)
    torch.testing.assert_close(received, (hidden["first"] + hidden["second"]) / 2)
    model(**inputs).logits.square().sum().backward()
    assert model.get_parameter("mixes.third.weights").grad is not None
    assert model.get_parameter("stages.first.encoder.layer.0.output.dense.weight").grad is not None


@pytest.mark.parametrize("connector", ["auto", "linear"])
def test_a_linear_map_brings_other_widths_together(
    tiny_encoder: Path, wide_encoder: Path, inputs: dict[str, Tensor], connector: Any
) -> None:
    model, _ = linked(tiny_encoder, two(model=str(wide_encoder), connector=connector))
    assert model.get_parameter("connectors.second.first.weight").shape == (64, 32)
    assert model(**inputs).logits.shape == (2, 6, 3)


def test_equal_widths_need_no_map_and_a_wanted_one_starts_as_the_identity(
    tiny_encoder: Path, inputs: dict[str, Tensor]
) -> None:
    plain, _ = linked(tiny_encoder, two())
    mapped, _ = linked(tiny_encoder, two(connector="linear"))
    assert not plain.connectors and list(mapped.connectors) == ["second"]
    assert torch.equal(plain(**inputs).logits, mapped(**inputs).logits)


def test_other_widths_without_a_connector_are_refused(tiny_encoder: Path, wide_encoder: Path) -> None:
    with pytest.raises(ConfigError, match=r"width 64.*gives 32") as caught:
        linked(tiny_encoder, two(model=str(wide_encoder), connector="none"))
    assert caught.value.problems[0].key == "chain.stages.second.connector"


# Sharing and saving ---------------------------------------------------------------------------------

SHARED = "encoder.layer.0.output.dense.weight"


@pytest.fixture
def shared(tiny_encoder: Path) -> LinkedModel:
    model, chain = linked(tiny_encoder, two(share=ShareConfig(with_="first"), residual=True))
    assert chain.describe()[0]["shared_with"] == ["second"]
    return model


def is_one(model: Any) -> bool:
    one, other = model.get_parameter(f"stages.first.{SHARED}"), model.get_parameter(f"stages.second.bert.{SHARED}")
    return one is other


def test_shared_parameters_are_one_and_get_both_gradients(shared: LinkedModel, inputs: dict[str, Tensor]) -> None:
    assert is_one(shared)
    assert len(list(shared.named_parameters())) < len(list(shared.named_parameters(remove_duplicate=False)))
    shared.load_state_dict(shared.state_dict())
    assert is_one(shared)


def test_without_sharing_the_same_model_is_two_copies(tiny_encoder: Path) -> None:
    assert not is_one(linked(tiny_encoder, two())[0])


def test_sharing_some_parameters_leaves_the_others_apart(tiny_encoder: Path) -> None:
    model, _ = linked(tiny_encoder, two(share=ShareConfig(with_="first", parameters=r"attention\..*")))
    name = "encoder.layer.1.attention.self.query.weight"
    assert model.get_parameter(f"stages.first.{name}") is model.get_parameter(f"stages.second.bert.{name}")
    assert not is_one(model)


def test_a_saved_folder_holds_shared_parameters_once_and_any_loader_ties_them(
    shared: LinkedModel, inputs: dict[str, Tensor], tiny_encoder: Path, tmp_path: Path
) -> None:
    shared.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert (f"stages.first.{SHARED}" in stored) != (f"stages.second.bert.{SHARED}" in stored)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    expected = shared(**inputs).logits
    ner(tiny_encoder).tokenizer.save_pretrained(tmp_path)
    loaded, facts = AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not facts["missing_keys"] and not facts["unexpected_keys"]
    for one in (loaded, load_trained(str(tmp_path), ner(tiny_encoder))):
        one.train(False)
        assert is_one(one)
        assert torch.equal(one(**inputs).logits, expected)


def test_a_tie_that_was_broken_in_the_file_is_refused(shared: LinkedModel, tmp_path: Path) -> None:
    """fault 20"""
    shared.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    first, second = f"stages.first.{SHARED}", f"stages.second.bert.{SHARED}"
    value = stored.get(first, stored.get(second))
    assert value is not None
    save_file({**stored, first: value, second: value + 1}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="were one parameter"):
        AutoModelForTokenClassification.from_pretrained(tmp_path)


def test_sharing_between_other_shapes_tells_both(tiny_encoder: Path, wide_encoder: Path) -> None:
    stages = {"first": StageConfig(), "wide": StageConfig(model=str(wide_encoder))}
    with pytest.raises(ConfigError, match="has 3 blocks, 'first' has 2"):
        linked(tiny_encoder, {**stages, "wide": replace(stages["wide"], share=ShareConfig(with_="first"))})


def test_another_kind_of_head_is_refused(shared: LinkedModel, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    shared.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="AutoModelForTokenClassification"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


# Auxiliary heads and exits --------------------------------------------------------------------------


def with_auxiliary(**chain: Any) -> tuple[dict[str, StageConfig], dict[str, Any]]:
    return {"first": StageConfig(auxiliary=AuxiliaryConfig(weight=0.5)), "second": StageConfig()}, chain


def labelled(inputs: dict[str, Tensor]) -> Any:
    labels = torch.where(inputs["attention_mask"] == 1, inputs["input_ids"] % 3, -100)
    return SimpleNamespace(inputs=inputs, targets={"labels": labels})


def test_auxiliary_losses_are_added_with_their_weight_in_training_only(
    tiny_encoder: Path, inputs: dict[str, Tensor]
) -> None:
    model, _ = linked(tiny_encoder, with_auxiliary()[0])
    task, batch = ner(tiny_encoder), labelled(inputs)
    assert "auxiliary" not in model(**inputs)
    model.train()
    output = model(**inputs)
    ((weight, head),) = output["auxiliary"]
    expected = task.loss(output, batch) + 0.5 * task.loss(head, batch)
    assert weight == 0.5
    assert torch.equal(loss_of(task, output, batch), expected)


def test_the_gradient_of_an_auxiliary_loss_reaches_its_head_and_stage(
    tiny_encoder: Path, inputs: dict[str, Tensor]
) -> None:
    model, _ = linked(tiny_encoder, with_auxiliary()[0])
    model.train()
    task, batch = ner(tiny_encoder), labelled(inputs)
    loss_of(task, model(**inputs), batch).backward()
    for name in ("stages.first.classifier.weight", "stages.first.bert.encoder.layer.0.output.dense.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None and gradient.abs().sum() > 0


@torch.no_grad()
def test_rows_leave_at_the_first_head_that_is_sure(tiny_encoder: Path, inputs: dict[str, Tensor]) -> None:
    whole, _ = linked(tiny_encoder, with_auxiliary()[0])
    first, _ = whole.run_stage("first", inputs, {})
    sure = sureness(first.logits, inputs["attention_mask"], multi_label=False)
    expected = whole(**inputs).logits
    between = float(sure.mean())
    for threshold, leaves in ((between, sure >= between), (1.0, sure >= 2), (0.01, sure >= 0)):
        model, _ = linked(tiny_encoder, with_auxiliary()[0], exit_confidence=threshold)
        found = model(**inputs).logits
        for row in range(2):
            wanted = first.logits[row] if leaves[row] else expected[row]
            torch.testing.assert_close(found[row], wanted, atol=1e-6, rtol=0)


def test_sureness_is_that_of_the_least_sure_answer() -> None:
    logits = torch.tensor([[[0.0, 0.0], [5.0, 0.0]]])
    assert float(sureness(logits, torch.tensor([[1, 1]]), multi_label=False)) == 0.5
    assert float(sureness(logits, torch.tensor([[0, 1]]), multi_label=False)) == pytest.approx(0.99331, abs=1e-4)
    assert float(sureness(torch.tensor([[-9.0, 0.0]]), torch.tensor([[1]]), multi_label=True)) == 0.5


# Stages ---------------------------------------------------------------------------------------------


def test_every_parameter_belongs_to_the_stage_in_its_name(tiny_encoder: Path, wide_encoder: Path) -> None:
    stages = {**two(model=str(wide_encoder), residual=True), "third": StageConfig(receive="all", frozen=True)}
    model, chain = linked(tiny_encoder, stages)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"stages", "connectors", "mixes"}
    assert {stage_of(name) for name, _ in model.named_parameters()} == {"first", "second", "third"}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if stage_of(name) == "third"}
    assert [one["blocks"] for one in chain.describe()] == [
        "embeddings, first.0:2",
        "embeddings, second.0:3",
        "embeddings, third.0:2, head",
    ]


def test_a_pooler_that_nothing_trains_is_left_out(tiny_encoder: Path) -> None:
    model, _ = linked(tiny_encoder, two())
    assert not [name for name, _ in model.named_parameters() if "pooler" in name]


@pytest.mark.parametrize("name", ["keys", "train", "forward"])
def test_a_name_that_modules_use_is_refused(tiny_encoder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        linked(tiny_encoder, {"first": StageConfig(), name: StageConfig()})


# Tokenizers and models ------------------------------------------------------------------------------


def test_models_with_other_vocabularies_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_encoder, other)
    text = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(text.replace('"oslo"', '"bergen"'), encoding="utf-8")
    with pytest.raises(ModelError, match="different vocabularies") as caught:
        read_tokenizer(run_config(tiny_encoder, two(model=str(other))))
    assert caught.value.problems[0].key == "chain.stages.second.model"
    assert str(tiny_encoder) in str(caught.value) and str(other) in str(caught.value)


def test_the_shortest_of_the_models_limits_the_length(tiny_encoder: Path, tiny_decoder: Path) -> None:
    _, length = read_tokenizer(run_config(tiny_decoder, two(model=str(tiny_encoder))))
    assert length == 64


@pytest.mark.parametrize("kind", ["linked", "encoder-decoder"])
def test_stages_that_cannot_be_linked_are_refused(tiny_encoder: Path, tmp_path: Path, kind: str) -> None:
    from transformers import BartConfig

    if kind == "linked":
        linked(tiny_encoder, two())[0].save_pretrained(tmp_path)
    else:
        BartConfig().save_pretrained(tmp_path)
        save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ChainftError, match="cannot be a linked stage") as caught:
        check_models(run_config(tiny_encoder, two(model=str(tmp_path))))
    assert caught.value.problems[0].key == "chain.stages.second.model"


def test_the_blocks_of_all_models_predict_in_8_bits(tiny_encoder: Path, inputs: dict[str, Tensor]) -> None:
    model, _ = linked(tiny_encoder, two(residual=True))
    with torch.no_grad():
        before = model(**inputs).logits
        assert to_int8(model).num_layers == 2 * 2 * 6
        after = model(**inputs).logits
    assert not torch.equal(after, before)
    assert (after - before).norm() < 0.04 * before.norm()

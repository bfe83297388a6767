"""Models, heads and tokenizers: exact weights, kept heads, refused misfits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from chainft.config.run import ModelConfig
from chainft.errors import ConfigError, ModelError
from chainft.models.load import load_config, load_model, load_tokenizer, max_length_of
from chainft.models.read import _forget_quantization
from chainft.models.weights import Located


def task(folder: Path, names: list[str], auto: str = "AutoModelForSequenceClassification") -> Any:
    options = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return SimpleNamespace(
        auto_class=auto,
        auto_class_for=lambda architecture: auto,
        config=SimpleNamespace(name="classify"),
        modules=dict,
        default_model="starter",
        tokenizer=load_tokenizer(ModelConfig(path=str(folder))),
        model_options=lambda: options if names else {},
    )


@pytest.fixture
def with_head(tiny_encoder: Path, tmp_path: Path) -> Path:
    """The tiny encoder with a trained head for the labels a, b, c."""
    folder = tmp_path / "with-head"
    loaded = load_model(ModelConfig(path=str(tiny_encoder)), task(tiny_encoder, ["a", "b", "c"]), seed=1)
    loaded.model.save_pretrained(folder)
    load_tokenizer(ModelConfig(path=str(tiny_encoder))).save_pretrained(folder)
    return folder


def test_the_body_comes_from_the_weights_and_the_head_is_new(tiny_encoder: Path) -> None:
    loaded = load_model(ModelConfig(path=str(tiny_encoder)), task(tiny_encoder, ["a", "b", "c"]), seed=1)
    body = AutoModel.from_pretrained(tiny_encoder).state_dict()
    state = loaded.model.state_dict()
    assert all(torch.equal(state[f"bert.{name}"], value) for name, value in body.items())
    assert loaded.new == ("classifier.bias", "classifier.weight")
    assert loaded.model.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_the_seed_decides_the_new_head(tiny_encoder: Path) -> None:
    def head(seed: int) -> torch.Tensor:
        loaded = load_model(ModelConfig(path=str(tiny_encoder)), task(tiny_encoder, ["a", "b"]), seed=seed)
        return loaded.model.classifier.weight

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))


def test_a_head_with_the_same_labels_in_another_order_is_reordered_by_name(with_head: Path) -> None:
    """fault 11"""
    ids = torch.tensor([[2, 7, 9, 3]])
    before = AutoModelForSequenceClassification.from_pretrained(with_head).eval()(input_ids=ids).logits[0]
    loaded = load_model(ModelConfig(path=str(with_head)), task(with_head, ["c", "a", "b"]), seed=1)
    after = loaded.model.eval()(input_ids=ids).logits[0]
    torch.testing.assert_close(after, before[[2, 0, 1]], rtol=1e-6, atol=1e-6)
    old = load_file(with_head / "model.safetensors")["classifier.weight"]
    assert torch.equal(loaded.model.classifier.weight, old[[2, 0, 1]])
    assert loaded.new == ()


@pytest.mark.parametrize("names", [["a", "b", "x"], ["a", "b"], ["a", "b", "c", "d"]])
def test_a_head_for_other_labels_is_refused_unless_a_new_one_is_asked_for(with_head: Path, names: list[str]) -> None:
    """fault 11"""
    with pytest.raises(ModelError, match="head for other labels"):
        load_model(ModelConfig(path=str(with_head)), task(with_head, names), seed=1)
    loaded = load_model(ModelConfig(path=str(with_head), head="new"), task(with_head, names), seed=1)
    assert loaded.model.classifier.weight.shape[0] == len(names)
    assert "classifier.weight" in loaded.new
    body = load_file(with_head / "model.safetensors")
    state = loaded.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in body.items() if name.startswith("bert."))


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_weights_that_do_not_fill_the_body_are_refused(tiny_encoder: Path, tmp_path: Path, damage: str) -> None:
    """fault 19"""
    folder = shutil.copytree(tiny_encoder, tmp_path / "damaged")
    tensors = load_file(folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    if damage == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(3, 3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=name):
        load_model(ModelConfig(path=str(folder)), task(folder, ["a", "b"]), seed=1)


def test_truncated_weights_are_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "cut")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(ModelConfig(path=str(folder)), task(folder, ["a", "b"]), seed=1)


def test_an_encoder_is_refused_for_generation_with_a_way_out(tiny_encoder: Path) -> None:
    wanted = task(tiny_encoder, [], auto="AutoModelForSeq2SeqLM")
    with pytest.raises(ModelError, match="no head for task"):
        load_model(ModelConfig(path=str(tiny_encoder)), wanted, seed=1)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tiny_encoder: Path, tmp_path: Path) -> None:
    """fault 22"""
    folder = shutil.copytree(tiny_encoder, tmp_path / "small")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vocab_size"] = 20
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer has \d+ tokens, the model's embedding only 20"):
        load_model(ModelConfig(path=str(folder), pretrained=False), task(folder, ["a", "b"]), seed=1)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "deberta-v2"])
def test_a_folder_without_tokenizer_files_is_refused(tmp_path: Path, kind: str) -> None:
    """fault 22: transformers makes a tokenizer to which every word is unknown."""
    save_file({}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
    with pytest.raises(ModelError, match="knows no words"):
        load_tokenizer(ModelConfig(path=str(tmp_path)))


def test_an_encoder_that_transformers_would_take_for_a_decoder_is_refused(
    tiny_encoder: Path, tiny_decoder: Path
) -> None:
    wanted = task(tiny_encoder, [], auto="AutoModelForCausalLM")
    with pytest.raises(ModelError, match="reads in both directions"):
        load_model(ModelConfig(path=str(tiny_encoder)), wanted, seed=1)
    assert load_model(ModelConfig(path=str(tiny_decoder)), wanted, seed=1).new == ()


def test_a_model_that_is_not_there_offline_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub reads the variable when it is imported, which may have been before the tests set it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(ModelConfig(path="no-one/nothing"))
    assert "HF_HUB_OFFLINE is set" in (caught.value.problems[0].help or "")


def test_random_weights_differ_from_the_pretrained_ones(tiny_encoder: Path) -> None:
    loaded = load_model(ModelConfig(path=str(tiny_encoder), pretrained=False), task(tiny_encoder, ["a", "b"]), seed=1)
    pretrained = AutoModel.from_pretrained(tiny_encoder)
    ours = loaded.model.bert.encoder.layer[0].output.dense.weight
    assert not torch.equal(ours, pretrained.encoder.layer[0].output.dense.weight)


def test_the_longest_sequence_is_the_models_limit_unless_configured(tiny_encoder: Path) -> None:
    architecture = AutoConfig.from_pretrained(tiny_encoder)
    tokenizer = load_tokenizer(ModelConfig(path=str(tiny_encoder)))
    assert max_length_of(ModelConfig(), architecture, tokenizer) == 64
    assert max_length_of(ModelConfig(max_length=20), architecture, tokenizer) == 20
    for wrong in (65, 2):
        with pytest.raises(ConfigError, match=f"max_length={wrong}"):
            max_length_of(ModelConfig(max_length=wrong), architecture, tokenizer)


def test_weights_out_of_a_gguf_file_can_be_saved_again(tiny_encoder: Path, tmp_path: Path) -> None:
    """What transformers leaves on a model that it read from GGUF: float32 weights under the mark of a quantizer."""
    model = load_model(ModelConfig(path=str(tiny_encoder)), task(tiny_encoder, ["a", "b"]), seed=1).model
    model.hf_quantizer = SimpleNamespace(is_serializable=lambda: False)
    model.config.quantization_config = {"quant_method": "gguf"}
    _forget_quantization(model)
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
    model.bert.pooler.dense.weight.data = model.bert.pooler.dense.weight.data.half()
    with pytest.raises(ModelError, match=r"bert\.pooler\.dense\.weight"):
        _forget_quantization(model)


def test_a_gguf_file_needs_no_config_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the package of smollm2; this one is none, which is told as such."""
    (tmp_path / "model.gguf").write_bytes(b"no GGUF")
    place = Located(str(tmp_path), gguf_file="model.gguf")
    monkeypatch.setattr("chainft.models.load.locate", lambda config: place)
    with pytest.raises(ModelError) as caught:
        load_config(ModelConfig(path="smollm2"))
    assert caught.value.problems[0].slug == "cannot-load"

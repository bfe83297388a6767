"""A head that is a plug-in: put on a model, trained, saved, and read again, by chainft alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification

from chainft import registry
from chainft.config.compose import compose
from chainft.config.run import HeadConfig, ModelConfig
from chainft.errors import ConfigError, ModelError
from chainft.heads.base import Head
from chainft.heads.mlp import Mlp, MlpConfig
from chainft.infer.trained import load_run
from chainft.models.load import load_model, load_tokenizer
from chainft.models.load_headed import load_trained, load_with_head
from chainft.models.own_heads import MODEL_TYPE, mark_folder, put_head
from chainft.plan.probe import new_skeleton, new_task
from chainft.registry import find
from chainft.tasks.base import Labels, Task
from chainft.train.session import run_training
from tests.stages.architectures import batch, tiny_model

MLP = MlpConfig(hidden_size=5)


def classify(folder: Path, names: tuple[str, ...] = ("a", "b", "c")) -> Task:
    kind = find("task", "classify", key="task.name")
    task: Task = kind(kind.config_class())
    task.labels = Labels(names)
    task.prepare(load_tokenizer(ModelConfig(path=str(folder))), max_length=32)
    return task


def loaded(folder: Path, own: HeadConfig = MLP, names: tuple[str, ...] = ("a", "b", "c"), **model: Any) -> Any:
    return load_with_head(ModelConfig(path=str(folder), **model), own, classify(folder, names), seed=1)


@pytest.fixture
def saved(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A model with the head, as a run saves it."""
    folder = tmp_path / "saved"
    loaded(tiny_encoder).model.save_pretrained(folder)
    load_tokenizer(ModelConfig(path=str(tiny_encoder))).save_pretrained(folder)
    mark_folder(folder)
    return folder


def inputs() -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]),
        "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
    }


def test_the_hidden_layer_is_computed_as_the_settings_say() -> None:
    """By hand: relu(x W1) W2 of x = (1, -1) and W1 = ((1, 0), (0, 1)) is (1, 0) W2."""
    head: Any = Mlp(MlpConfig(hidden_size=2, activation="relu", dropout=0.9)).build(2, 3).eval()
    with torch.no_grad():
        for layer in (head[0], head[3]):
            layer.bias.zero_()
        head[0].weight.copy_(torch.eye(2))
        head[3].weight.copy_(torch.tensor([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]))
        assert head(torch.tensor([1.0, -1.0])).tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("hidden_size", [None, 7])
def test_the_hidden_layer_is_as_wide_as_configured(hidden_size: int | None) -> None:
    head: Any = Mlp(MlpConfig(hidden_size=hidden_size)).build(4, 2)
    assert head[0].out_features == (hidden_size or 4)


@pytest.mark.parametrize(
    "case",
    ["bert:classify", "bert:tokens", "roberta:tokens", "data2vec-text:classify", "distilbert:tokens", "albert:classify",
     "deberta:classify", "electra:tokens", "modernbert:tokens", "gpt2:classify", "llama:classify", "mpnet:tokens"],
)  # fmt: skip
def test_it_stands_in_the_place_of_the_last_layer_and_is_trained(case: str) -> None:
    model = tiny_model(case)
    given = {name: value for name, value in batch(case).items() if name != "labels"}
    old = model(**given).logits
    path = put_head(model, MLP)
    logits = model(**given).logits
    assert logits.shape == old.shape and not torch.allclose(logits, old)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.get_submodule(path).parameters())


def test_a_head_that_copies_the_last_layer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("bert:tokens")
    layer: Any = model.get_submodule("classifier")

    class Same(Head):
        config_class = HeadConfig

        def build(self, width: int, num_outputs: int) -> nn.Module:
            copy = nn.Linear(width, num_outputs)
            copy.load_state_dict(layer.state_dict())
            return copy

    monkeypatch.setattr("chainft.models.own_heads.find", lambda *_, **__: Same)
    given = {name: value for name, value in batch("bert:tokens").items() if name != "labels"}
    before = model(**given).logits
    put_head(model, HeadConfig(name="same"))
    assert torch.equal(model(**given).logits, before)


def test_only_the_head_is_new_and_the_seed_decides_it(tiny_encoder: Path) -> None:
    one, same = loaded(tiny_encoder), loaded(tiny_encoder)
    assert one.new == tuple(f"classifier.{name}" for name in ("0.weight", "0.bias", "3.weight", "3.bias"))
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), same.model.parameters(), strict=True))
    other = load_with_head(ModelConfig(path=str(tiny_encoder)), MLP, classify(tiny_encoder), seed=2).model
    assert not torch.equal(other.classifier[0].weight, one.model.classifier[0].weight)


def test_what_is_read_again_gives_the_same_scores_bit_for_bit(tiny_encoder: Path, saved: Path) -> None:
    first, again = loaded(tiny_encoder).model.eval(), load_trained(str(saved), classify(saved)).eval()
    assert torch.equal(first(**inputs()).logits, again(**inputs()).logits)
    kept = loaded(saved)
    assert kept.new == () and torch.equal(kept.model.eval()(**inputs()).logits, first(**inputs()).logits)


def test_transformers_alone_refuses_it_instead_of_drawing_a_random_head(saved: Path) -> None:
    assert json.loads((saved / "config.json").read_text(encoding="utf-8"))["model_type"] == MODEL_TYPE
    with pytest.raises(ValueError, match=MODEL_TYPE):
        AutoModelForSequenceClassification.from_pretrained(saved)


def test_weights_with_another_head_are_refused_unless_a_new_one_is_asked_for(saved: Path, tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="with other settings"):
        loaded(saved, replace(MLP, activation="tanh"))
    with pytest.raises(ModelError, match="for other labels, or for these in another order"):
        loaded(saved, names=("c", "b", "a"))
    with pytest.raises(ModelError, match="brings the head 'mlp', a plug-in"):
        load_model(ModelConfig(path=str(saved)), classify(saved), seed=1)
    fresh = loaded(saved, replace(MLP, activation="tanh"), head="new")
    assert len(fresh.new) == 4
    plain = load_model(ModelConfig(path=str(saved), head="new"), classify(saved), seed=1)
    assert plain.new == ("classifier.bias", "classifier.weight")
    plain.model.save_pretrained(saved.parent / "plain")
    AutoModelForSequenceClassification.from_pretrained(saved.parent / "plain")
    body = load_model(ModelConfig(path=str(tiny_encoder)), classify(saved), seed=1).model.bert.state_dict()
    assert all(
        torch.equal(value, body[name]) for name, value in plain.model.bert.state_dict().items() if "pooler" not in name
    )


@pytest.mark.parametrize("change", ["missing", "more", "shape"])
def test_tensors_that_do_not_fit_the_head_are_named(saved: Path, change: str) -> None:
    file = saved / "model.safetensors"
    tensors = load_file(file)
    if change == "missing":
        del tensors["classifier.3.bias"]
    elif change == "more":
        tensors["classifier.9.weight"] = torch.zeros(1)
    else:
        tensors["classifier.3.bias"] = torch.zeros(8)
    save_file(tensors, file, metadata={"format": "pt"})
    wanted = {
        "missing": "3.bias is missing",
        "more": "9.weight is no part of it",
        "shape": r"has the shape \[8\], not \[3\]",
    }
    with pytest.raises(ModelError, match=wanted[change]):
        load_trained(str(saved), classify(saved))


@pytest.mark.parametrize(
    ("entry", "error", "match"),
    [
        ({"chainft_head": {"name": "os.system"}}, ConfigError, "head 'os.system' does not exist; there are: mlp"),
        ({"chainft_head": {"name": "mlp", "width": 3}}, ConfigError, "head.width is not a setting"),
        ({"chainft_head": "mlp"}, ModelError, "config.json is not as chainft writes it"),
        ({"chainft_trunk": "no-such-model"}, ModelError, "config.json is not as chainft writes it"),
    ],
)
def test_what_a_config_says_of_its_head_is_not_trusted(
    saved: Path, entry: dict[str, Any], error: type[Exception], match: str
) -> None:
    file = saved / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | entry), encoding="utf-8")
    with pytest.raises(error, match=match):
        load_trained(str(saved), classify(saved))


class Wrong(Head):
    config_class = HeadConfig
    makes: Any = None

    def build(self, width: int, num_outputs: int) -> Any:
        return self.makes(width, num_outputs)


@pytest.mark.parametrize(
    ("makes", "cause"),
    [
        (lambda width, outputs: 3, "gave a int, not a torch.nn.Module"),
        (lambda width, outputs: nn.Linear(width, outputs + 1), r"makes \[2, 3\], not \[2, 2\]"),
        (lambda width, outputs: nn.Linear(width + 1, outputs), "it fails: mat1 and mat2"),
        (lambda width, outputs: nn.GRU(width, outputs), "it makes tuple"),
    ],
)
def test_a_module_that_is_no_head_is_told(monkeypatch: pytest.MonkeyPatch, makes: Any, cause: str) -> None:
    monkeypatch.setattr("chainft.models.own_heads.find", lambda *_, **__: Wrong)
    monkeypatch.setattr(Wrong, "makes", staticmethod(makes))
    with pytest.raises(ConfigError, match=cause):
        put_head(tiny_model("bert:tokens"), HeadConfig(name="wrong"))


def test_a_model_without_a_score_a_class_has_no_place_for_it() -> None:
    with pytest.raises(ConfigError, match="has no place in BertForMaskedLM"):
        put_head(tiny_model("bert:masked"), MLP)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["task=joint"], "several tasks on one trunk"),
        (["task=generate", "model=x"], "writes text by the word embeddings"),
        (["task=ner", "chain=cascade"], "linked models keep"),
    ],
)
def test_where_it_has_no_place_the_config_is_refused(words: list[str], reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([*words, "head=mlp"])
    assert any(problem.key == "head.name" and reason in problem.message for problem in caught.value.problems)


def test_its_settings_are_checked_with_the_rest() -> None:
    assert compose(["task=ner", "head=mlp", "head.hidden_size=9"]).config.head == MlpConfig(hidden_size=9)
    assert compose(["task=ner"]).config.head == HeadConfig()
    for word, slug in (
        ("head.dropout=1", "out-of-range"),
        ("head.hidden=3", "unknown-key"),
        ("head=x", "unknown-option"),
    ):
        with pytest.raises(ConfigError) as caught:
            compose(["task=ner", "head=mlp", word] if word != "head=x" else ["task=ner", word])
        assert caught.value.problems[0].slug == slug


def test_a_plan_counts_its_parameters(tiny_encoder: Path) -> None:
    config = compose(["task=classify", f"model={tiny_encoder}", "head=mlp", "head.hidden_size=5"]).config
    planned = new_skeleton(config, new_task(config, 3))
    real = loaded(tiny_encoder).model
    assert {name: p.shape for name, p in planned.named_parameters()} == {
        n: p.shape for n, p in real.named_parameters()
    }


def test_a_run_trains_saves_and_loads_it(
    tiny_encoder: Path, ner_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "task=ner",
        *ner_files,
        f"model={tiny_encoder}",
        "head=mlp",
        "train.num_train_epochs=12",
        "optimizer.lr=3e-3",
    ]
    stages = ["chain.order=[base,top]", "chain.stages.base.blocks='embeddings, :1'", "chain.stages.base.frozen=true",
              "chain.stages.top.blocks='1:, head'"]  # fmt: skip
    results = run_training(compose([*words, *stages, "run=run"]))
    before, after = (results["test"][when]["values"]["loss"] for when in ("before", "after"))
    assert after < 0.8 * before
    trained = load_run(Path("run"))
    assert type(trained.model.classifier) is nn.Sequential
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "Its head `mlp` is a plug-in" in card and "pipeline(" not in card


def test_without_the_package_of_the_head_the_error_names_it(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = registry.plugins
    monkeypatch.setattr(registry, "plugins", lambda kind: () if kind == "head" else found(kind))
    with pytest.raises(ConfigError, match="head 'mlp' does not exist"):
        load_trained(str(saved), classify(saved))


def test_a_copy_of_the_folder_is_as_good(saved: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(saved, tmp_path / "elsewhere")
    assert load_trained(str(copy), classify(copy)) is not None

"""Whole runs in this process: every kind of setting trains, and those that promise the same numbers give them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from chainft.config.compose import compose
from chainft.errors import ChainftError, CheckpointError, ConfigError, DataError, StorageError
from chainft.run_folder import RunFolder, lock
from chainft.train.session import run_training
from tests.clean_process import clean_process

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(tiny_encoder: Path, ner_files: list[str], tmp_path: Path) -> Iterator[Train]:
    """Trains for ten steps with more settings; returns the results, with the losses of all steps."""

    def run(*words: str, name: str = "run") -> dict[str, Any]:
        settings = [f"model={tiny_encoder}", "train.batch_size=8", "train.num_train_epochs=2", "optimizer.lr=0.005"]
        settings += ["report.enabled=false", f"run={tmp_path / name}", *ner_files, "task=ner"]
        kept = [one for one in settings if one.split("=")[0] not in {word.split("=")[0] for word in words}]
        AcceleratorState._reset_state(reset_partial_state=True)
        results = run_training(compose([*kept, *words]))
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        losses = [one["loss"] for one in records if one["kind"] == "train"]
        evaluations = [one["step"] for one in records if one["kind"] == "evaluation"]
        return {**results, "losses": losses, "evaluations": evaluations}

    with clean_process():
        yield run


@pytest.mark.parametrize(
    "words",
    [
        ["train.mixed_precision=bf16"],
        ["train.gradient_checkpointing=true"],
        ["optimizer=sgd", "optimizer.lr=0.3", "optimizer.options={momentum: 0.9}"],
        ["optimizer=lion", "optimizer.lr=0.001"],
        ["optimizer=adafactor", "optimizer.lr=0.1"],
        ["optimizer=rmsprop"],
        ["optimizer.name=NAdam"],
        ["scheduler=cosine", "scheduler.warmup_steps=2"],
        ["scheduler=warmup_stable_decay"],
        ["task.class_weights=balanced", "task.label_smoothing=0.1"],
        ["train.micro_batch_tokens=40", "train.max_grad_norm=null"],
        ["model.pretrained=false"],
        ["model.max_length=9"],
        ["tracker=tensorboard"],
    ],
    ids=lambda words: words[0],
)
def test_the_loss_falls_with_every_kind_of_setting(train: Train, words: list[str]) -> None:
    results = train(*words, "train.num_train_epochs=4")
    assert len(results["losses"]) == 20
    assert sum(results["losses"][-5:]) < 0.9 * sum(results["losses"][:5])
    assert results["test"]["after"]["values"]["loss"] < results["test"]["before"]["values"]["loss"]


def test_checkpointed_activations_change_no_number(train: Train) -> None:
    plain = train("train.padding_free=false", name="plain")
    assert train("train.gradient_checkpointing=true", name="again")["losses"] == pytest.approx(plain["losses"])


@pytest.mark.parametrize(("words", "told"), [([], True), (["train.padding_free=false"], False)])
def test_the_plan_says_whether_batches_are_padded(train: Train, tmp_path: Path, words: list[str], told: bool) -> None:
    train(*words)
    assert json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))["padding_free"] is told


def test_a_model_that_cannot_checkpoint_activations_says_so(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertPreTrainedModel

    monkeypatch.setattr(BertPreTrainedModel, "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match=r"train\.gradient_checkpointing=true.*BertForTokenClassification"):
        train("train.gradient_checkpointing=true")


def test_display_and_checkpoint_settings_change_no_number(train: Train) -> None:
    plain = train(name="plain")
    words = [
        "checkpoint.every=1",
        "train.logging_steps=1",
        "evaluation.batch_size=3",
        "evaluation.before_training=false",
    ]
    other = train(*words, name="other")
    assert other["losses"] == plain["losses"]
    assert other["test"]["after"]["values"] == pytest.approx(plain["test"]["after"]["values"])
    assert other["test"]["before"] is None


def test_evaluation_comes_as_often_as_asked(train: Train) -> None:
    assert train("evaluation.every=4", name="steps")["evaluations"] == [4, 8, 10]
    assert train("evaluation.every=0.5", name="share")["evaluations"] == [5, 10]
    assert train("train.num_train_epochs=1.5", name="epochs")["evaluations"] == [5, 8]


def test_patience_ends_early_and_the_best_is_scored(train: Train) -> None:
    words = ["evaluation.every=1", "evaluation.patience=2", "evaluation.metric=loss", "evaluation.min_delta=10"]
    results = train(*words)
    assert results["stopped_early"]
    assert results["steps"] == 3
    assert results["best"]["value"] == pytest.approx(results["validation"]["values"]["loss"])


def test_without_test_data_validation_is_reported(train: Train, ner_files: list[str]) -> None:
    results = train(*[f"{word.split('=')[0]}=null" for word in ner_files if word.startswith("data.test")])
    assert results["test"] is None
    assert results["validation"]["values"]["entity_f1"] >= 0


@pytest.mark.parametrize(
    ("words", "kind", "text"),
    [
        (["evaluation.metric=f1"], ConfigError, "entity_f1"),
        (["optimizer.options={betaz: [0.9, 0.99]}"], ConfigError, "did you mean 'betas'"),
        (["scheduler.warmup_steps=999"], ConfigError, "999"),
        (["train.mixed_precision=fp16"], ConfigError, "CUDA"),
        (["train.device=cuda"], ConfigError, "doctor"),
        (["model.max_length=999"], ConfigError, "999"),
        (["task.class_weights={PERS: 2.0}"], ConfigError, "PERS"),
        (["data.columns={tokens: 7}"], DataError, "7"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_work_ends_before_the_first_step(
    train: Train, words: list[str], kind: type[ChainftError], text: str, tmp_path: Path
) -> None:
    with pytest.raises(kind) as caught:
        train(*words)
    assert text in caught.value.render()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert "Traceback" in (tmp_path / "run" / "errors.log").read_text(encoding="utf-8")


def test_two_runs_never_share_a_folder(train: Train, tmp_path: Path) -> None:
    """fault 28"""
    train()
    with lock(RunFolder(tmp_path / "run")), pytest.raises(StorageError, match="in use by process"):
        from chainft.config.saved import compose_resumed

        run_training(compose_resumed(str(tmp_path / "run"), []))


def test_a_finished_run_can_be_resumed_and_stays_what_it_was(train: Train, tmp_path: Path) -> None:
    from chainft.config.saved import compose_resumed

    before = train()
    weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    AcceleratorState._reset_state(reset_partial_state=True)
    after = run_training(compose_resumed(str(tmp_path / "run"), []))
    assert json.dumps(after["test"]) == json.dumps(before["test"])
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(("old", "new"), [("B-ORG", "B-FIRM"), ("B-LOC\n", "O\n")], ids=["renamed", "another"])
def test_no_consent_makes_other_labels_fit_the_head_of_a_checkpoint(
    train: Train, ner_files: list[str], tmp_path: Path, old: str, new: str
) -> None:
    """fault 17: as many labels with other names would train on silently."""
    from chainft.config.saved import compose_resumed

    words = []
    for word in ner_files[1:]:
        key, _, file = word.partition("=")
        copy = tmp_path / Path(file).name
        copy.write_text(Path(file).read_text(encoding="utf-8"), encoding="utf-8")
        words.append(f"{key}={copy}")
    train(*words)
    for copy in tmp_path.glob("*.conll"):
        changed = copy.read_text(encoding="utf-8").replace(old, new).replace("old\tI-LOC", "old\tO")
        copy.write_text(changed, encoding="utf-8")
    AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(CheckpointError, match="labels"):
        run_training(compose_resumed(str(tmp_path / "run"), ["allow_data_change=true"]))


def test_consent_to_a_change_is_for_one_start_only(train: Train, tmp_path: Path) -> None:
    """fault 8"""
    from chainft.config.saved import compose_resumed

    train()
    AcceleratorState._reset_state(reset_partial_state=True)
    words = ["optimizer.lr=0.004", "allow_change=[optimizer.lr]", "allow_data_change=true"]
    run_training(compose_resumed(str(tmp_path / "run"), words))
    assert not compose_resumed(str(tmp_path / "run"), []).config.allow_data_change
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        compose_resumed(str(tmp_path / "run"), ["optimizer.lr=0.003"])


def test_an_error_that_cannot_be_written_down_is_told_all_the_same(train: Train, tmp_path: Path) -> None:
    """fault 27: on a full disk there is no room for errors.log either."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.yaml").mkdir()
    (tmp_path / "full" / "errors.log").mkdir()
    composed = compose(["task=ner", f"run={tmp_path / 'full'}"])
    with pytest.raises(StorageError, match=r"config\.yaml"):
        run_training(replace(composed, config=replace(composed.config, resume=True)))

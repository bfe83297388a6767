"""Several tasks on one trunk through the real command."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

Chainft = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def words(tiny_encoder: Path, ner_files: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("texts")
    rows = [(f"{word} and good", "good") for word in ("paris", "oslo", "rome", "anna", "ben", "lima", "acme", "emil")]
    rows += [(text.replace("good", "bad"), "bad") for text, _ in rows]
    for split in ("train", "validation", "test"):
        lines = "".join(f"{text} {split},{label}\n" for text, label in rows)
        (folder / f"{split}.csv").write_text(f"text,label\n{lines}", encoding="utf-8")
    files = [f"data.tasks.mood.{split}={folder / split}.csv" for split in ("train", "validation", "test")]
    files += [word.replace("data.", "data.tasks.names.") for word in ner_files[1:]]
    tasks = ["task=joint", "task.tasks.names.name=ner", "task.tasks.mood.name=classify"]
    settings = [f"model={tiny_encoder}", "optimizer.lr=0.01", "train.batch_size=8", "train.num_train_epochs=2"]
    return [*tasks, *files, *settings, "checkpoint.every=3", "report.enabled=false"]


def succeed(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_a_joint_run_learns_resumes_bit_for_bit_and_is_evaluated_as_trained(
    chainft: Chainft, words: list[str], tmp_path: Path
) -> None:
    chain = ["chain.split=2", "chain.stages.stage0.frozen=true", "task.sampling=round_robin"]
    succeed(chainft("train", *words, *chain, "run=whole"))
    fault = {"CHAINFT_TESTING": "1", "CHAINFT_FAULT": "kill@step=8,phase=backward"}
    assert chainft("train", *words, *chain, "run=killed", env=fault).returncode == -9
    succeed(chainft("train", "run=killed", "resume=true"))
    test = results(tmp_path / "whole")["test"]
    assert results(tmp_path / "killed")["test"] == test
    for name in ("names", "mood"):
        weights = [(tmp_path / run / "model" / name / "model.safetensors").read_bytes() for run in ("whole", "killed")]
        assert weights[0] == weights[1]
    values = test["after"]["values"]
    assert values["loss"] < test["before"]["values"]["loss"]
    main = (values["names/entity_f1"] + values["mood/f1_macro"]) / 2
    assert values["mean_score"] == pytest.approx(main)
    best = results(tmp_path / "whole")["baselines"]["each best"]
    assert best["mean_score"] == pytest.approx((best["names/entity_f1"] + best["mood/f1_macro"]) / 2)
    found = json.loads(succeed(chainft("evaluate", "whole", "--json")).stdout)["values"]
    assert found == pytest.approx(values)


def test_every_head_is_a_plain_model_over_the_same_trunk(chainft: Chainft, words: list[str], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    succeed(chainft("train", *words, "train.max_steps=4", "run=run"))
    folder = tmp_path / "run" / "model"
    names, facts = AutoModelForTokenClassification.from_pretrained(folder / "names", output_loading_info=True)
    mood, more = AutoModelForSequenceClassification.from_pretrained(folder / "mood", output_loading_info=True)
    assert not any(facts[key] or more[key] for key in ("missing_keys", "unexpected_keys"))
    for name, parameter in names.bert.named_parameters():
        assert torch.equal(parameter, mood.bert.get_parameter(name)), name

    text = "Anna met Ben and good"
    joint = json.loads(succeed(chainft("predict", "run", text)).stdout)
    alone = {name: json.loads(succeed(chainft("predict", folder / name, text)).stdout) for name in ("names", "mood")}
    assert joint["names"]["tags"] == alone["names"]["tags"]
    assert joint["mood"]["scores"] == pytest.approx(alone["mood"]["scores"], abs=1e-6)


def test_a_changed_trunk_of_one_head_is_noticed(chainft: Chainft, words: list[str], tmp_path: Path) -> None:
    succeed(chainft("train", *words, "train.max_steps=2", "run=run"))
    file = tmp_path / "run" / "model" / "mood" / "model.safetensors"
    tensors = load_file(file)
    tensors["bert.encoder.layer.0.output.dense.bias"][0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    done = chainft("predict", "run", "anna")
    assert done.returncode == 4 and "bert.encoder.layer.0.output.dense.bias" in done.stderr


@pytest.mark.slow
def test_runs_over_one_frozen_trunk_are_joined(
    chainft: Chainft, words: list[str], ner_files: list[str], tiny_encoder: Path, tmp_path: Path
) -> None:
    frozen = ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"]
    stages = "{trunk: {blocks: 'embeddings, :', frozen: true}, top: {blocks: head}}"
    trunk = [f"chain={{order: [trunk, top], stages: {stages}}}"]
    common = [f"model={tiny_encoder}", "train.batch_size=8", "train.max_steps=3", "report.enabled=false"]
    mood = [word.replace("data.tasks.mood.", "data.") for word in words if word.startswith("data.tasks.mood.")]
    succeed(chainft("train", "task=ner", *ner_files, *common, *trunk, "run=names"))
    succeed(chainft("train", "task=classify", *mood, *common, *trunk, "run=mood", "seed=7"))
    succeed(chainft("train", "task=classify", *mood, *common, *frozen, "run=other"))
    joined = succeed(chainft("join", "names=names", "mood=mood", "--output", "both"))
    assert "2 heads in both" in joined.stdout
    found = json.loads(succeed(chainft("predict", "both", "anna met ben")).stdout)
    assert found["names"]["tokens"] == ["anna", "met", "ben"] and found["mood"]["label"] in ("good", "bad")
    done = chainft("join", "names=names", "mood=other", "--output", "none")
    assert done.returncode == 4 and "differ" in done.stderr and not (tmp_path / "none").exists()
    again = chainft("join", "names=names", "mood=mood", "--output", "both")
    assert again.returncode == 2 and "exists already" in again.stderr


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["task.tasks.mood.name=clasify"], "did you mean 'classify'"),
        (["data.tasks.mod.train=x.csv"], "no task is named 'mod'"),
        (["task.weights.mod=2"], "task.weights.mod"),
        (["task.temperature=2"], "task.temperature = 2.0 has no effect"),
        (["data.max_train_samples=3"], "data.tasks.NAME.max_train_samples"),
        (["data.tasks.mood.unseen_labels=allow"], "data.unseen_labels"),
        (["data.tasks.mood.train=absent.csv"], "data.tasks.mood.train"),
        (["data.tasks.mood.columns.text=sentence"], "data.tasks.mood.columns.text"),
        (["evaluation.metric=mood/f1"], "mood/f1_macro"),
        (["chain=cascade"], "several heads are learned on one model"),
    ],
)
def test_wrong_settings_are_told_with_their_place(
    chainft: Chainft, words: list[str], change: list[str], told: str
) -> None:
    done = chainft("train", *words, *change, "run=run")
    assert done.returncode in (2, 3), done.stderr
    assert told in done.stderr, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["task=ner", "data=joint", "data.tasks.names.train=x.conll"],
        ["task=joint", "task.tasks={a: {name: ner}, b: {name: ner}}", "data=csv", "data.train=x.csv"],
    ],
)
def test_joint_data_are_for_joint_tasks(chainft: Chainft, words: list[str]) -> None:
    done = chainft("train", *words, "run=run")
    assert done.returncode == 2 and "task=joint and data=joint are for each other" in done.stderr


def test_the_chain_of_several_heads_is_exact(chainft: Chainft, words: list[str]) -> None:
    chain = ["chain.split=3", "chain.stages.stage0.frozen=true"]
    settings = [word for word in words if not word.startswith(("checkpoint", "report"))]
    done = succeed(chainft("check", "chain", *settings, "chain.split=2", *chain[1:]))
    assert "largest |split - whole|" in done.stdout and "0 (exact)" in done.stdout


def test_a_task_that_is_never_drawn_is_refused(chainft: Chainft, words: list[str]) -> None:
    sampling = ["task.sampling=temperature", "task.temperature=0.1"]
    done = chainft("train", *words, *sampling, "run=run", "evaluation.before_training=false")
    assert done.returncode == 2 and "no example of task 'mood' is ever drawn" in done.stderr


@pytest.mark.slow
def test_an_unknown_label_is_placed_at_the_data_of_its_task(
    chainft: Chainft, words: list[str], tmp_path: Path
) -> None:
    succeed(chainft("train", *words, "train.max_steps=1", "evaluation.before_training=false", "run=run"))
    (tmp_path / "odd.csv").write_text("text,label\nanna,strange\n", encoding="utf-8")
    done = chainft("evaluate", "run", "data.tasks.mood.test=odd.csv")
    assert done.returncode == 3 and "'mood/strange'" in done.stderr and "data.tasks.mood.test" in done.stderr

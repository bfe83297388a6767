"""The real command on small real files: learns, leaves artefacts that other tools load, resumes bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Chainft = Callable[..., "subprocess.CompletedProcess[str]"]
TESTING = {"CHAINFT_TESTING": "1"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def words(tiny_encoder: Path, ner_files: list[str]) -> list[str]:
    """A training of 20 steps with evaluations and checkpoints on the way."""
    settings = ["task=ner", f"model={tiny_encoder}", "optimizer.lr=0.01", "train.batch_size=8"]
    settings += ["train.num_train_epochs=4", "checkpoint.every=3", "report.enabled=false"]
    return [*ner_files, *settings]


@pytest.fixture(scope="module")
def whole(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of that training, never disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    command = [sys.executable, "-m", "chainft", "train", *words, f"run={folder / 'run'}"]
    subprocess.run(command, cwd=folder, env=_environment({}), check=True, capture_output=True)
    return folder / "run"


def succeed(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


def trace(run: Path) -> tuple[list[tuple[Any, ...]], bytes, Any]:
    """Loss and gradient norm of every step, the final weights, and the scores."""
    steps = [(one["step"], one["loss"], one["grad_norm"]) for one in lines(run / "metrics.jsonl") if "loss" in one]
    results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    return steps, (run / "model" / "model.safetensors").read_bytes(), results["test"]


def test_training_learns_and_leaves_what_it_promises(chainft: Chainft, words: list[str], tmp_path: Path) -> None:
    shown = succeed(chainft("train", *words, "run=run", "report.enabled=true", "train.num_train_epochs=8"))
    run = tmp_path / "run"
    steps = [one for one in lines(run / "metrics.jsonl") if one["kind"] == "train"]
    assert [one["step"] for one in steps] == list(range(1, 41))
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    before, after = results["test"]["before"]["values"], results["test"]["after"]["values"]
    assert after["entity_f1"] > before["entity_f1"] + 0.3
    for name in ("config.yaml", "plan.json", "data_card.json", "environment.json", "log.txt", "report.html"):
        assert (run / name).stat().st_size > 0
    assert len(lines(run / "predictions" / "test.jsonl")) == 10
    assert "Plan" in shown.stderr
    assert "entity_f1" in shown.stdout
    assert "chainft predict run" in shown.stderr


def test_the_model_folder_gives_the_same_entities_in_transformers(
    chainft: Chainft, words: list[str], tmp_path: Path
) -> None:
    from transformers import pipeline

    succeed(chainft("train", *words, "run=run", "train.num_train_epochs=8"))
    text = "Anna  visited Acme, in Paris yesterday. 🙂 David met Globex in old Rome."
    ours = json.loads(succeed(chainft("predict", "run", text)).stdout)["entities"]
    theirs = pipeline("token-classification", model=str(tmp_path / "run" / "model"), aggregation_strategy="first")(
        text
    )
    assert ours
    assert [(one["type"], one["start"], one["end"]) for one in ours] == [
        (one["entity_group"], one["start"], one["end"]) for one in theirs
    ]
    for one, other in zip(ours, theirs, strict=True):
        assert one["score"] == pytest.approx(float(other["score"]), abs=1e-5)
        assert text[one["start"] : one["end"]] == one["text"]


def test_predictions_of_a_file_come_in_its_order(chainft: Chainft, whole: Path, tmp_path: Path) -> None:
    texts = ["anna met acme .", "", "a " * 90 + "paris", "oslo"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    from_file = succeed(chainft("predict", whole, "--file", "texts.txt")).stdout.splitlines()
    from_pipe = succeed(chainft("predict", whole, stdin="\n".join(texts) + "\n")).stdout.splitlines()
    assert from_file == from_pipe
    assert [json.loads(line)["text"] for line in from_file] == texts


def test_evaluate_repeats_the_scores_of_training(chainft: Chainft, whole: Path) -> None:
    expected = trace(whole)[2]["after"]["values"]
    found = json.loads(succeed(chainft("evaluate", whole, "--json")).stdout)["values"]
    assert found == pytest.approx(expected)


def test_evaluate_draws_the_same_examples_as_training(chainft: Chainft, words: list[str], tmp_path: Path) -> None:
    succeed(chainft("train", *words, "run=run", "data.max_test_samples=4", "train.max_steps=6"))
    expected = trace(tmp_path / "run")[2]["after"]["values"]
    found = json.loads(succeed(chainft("evaluate", "run", "--json")).stdout)
    assert found["examples"] == 4
    assert found["values"] == pytest.approx(expected)


def test_evaluate_follows_the_task_settings_it_is_given(chainft: Chainft, whole: Path) -> None:
    found = json.loads(succeed(chainft("evaluate", whole, "task.metrics=[tokens]", "--json")).stdout)["values"]
    assert "token_accuracy" in found
    assert "entity_f1" not in found


def test_labels_of_other_data_count_as_missed_if_that_is_allowed(
    chainft: Chainft, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.conll").write_text("anna\tB-PER\nmet\tO\n\nrome\tB-DATE\n\n", encoding="utf-8")
    refused = chainft("evaluate", whole, "data.test=other.conll")
    assert refused.returncode == 3
    assert "data.unseen_labels=allow" in refused.stderr
    done = succeed(chainft("evaluate", whole, "data.test=other.conll", "data.unseen_labels=allow", "--json"))
    (table,) = [one for one in json.loads(done.stdout)["tables"] if one["title"].startswith("Entities")]
    (missed,) = [row for row in table["rows"] if row[0] == "DATE"]
    assert missed[2] == 0.0
    assert missed[4] == 1


def test_the_same_seed_gives_the_same_run(chainft: Chainft, words: list[str], whole: Path, tmp_path: Path) -> None:
    """fault 32"""
    succeed(chainft("train", *words, "run=same", env={"PYTHONHASHSEED": "7"}))
    succeed(chainft("train", *words, "run=other", "seed=7"))
    assert trace(tmp_path / "same") == trace(whole)
    assert trace(tmp_path / "other")[1] != trace(whole)[1]


@pytest.mark.parametrize(
    "fault",
    [
        "kill@step=2,phase=forward",
        "kill@step=8,phase=backward",
        "kill@step=6,phase=save.optimizer",
        "kill@step=9,phase=save.commit",
        "kill@step=20,phase=save.links",
    ],
)
def test_a_killed_run_resumes_bitwise_equal(
    fault: str, chainft: Chainft, words: list[str], whole: Path, tmp_path: Path
) -> None:
    """fault 24"""
    killed = chainft("train", *words, "run=killed", env={**TESTING, "CHAINFT_FAULT": fault})
    assert killed.returncode == -signal.SIGKILL
    succeed(chainft("train", "run=killed", "resume=true"))
    assert trace(tmp_path / "killed") == trace(whole)


def test_three_kills_in_a_row_change_nothing(chainft: Chainft, words: list[str], whole: Path, tmp_path: Path) -> None:
    """fault 25"""
    fault = "kill@step={},phase=forward"
    chainft("train", *words, "run=killed", env={**TESTING, "CHAINFT_FAULT": fault.format(5)})
    for step in (8, 8, 17):
        again = chainft("train", "run=killed", "resume=true", env={**TESTING, "CHAINFT_FAULT": fault.format(step)})
        assert again.returncode == -signal.SIGKILL
    succeed(chainft("train", "run=killed", "resume=true"))
    assert trace(tmp_path / "killed") == trace(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stop_signal_saves_and_says_how_to_go_on(
    number: signal.Signals, code: int, chainft: Chainft, words: list[str], whole: Path, tmp_path: Path
) -> None:
    """fault 26"""
    command = [sys.executable, "-m", "chainft", "train", *words, "run=stopped"]
    slow = {**TESTING, "CHAINFT_FAULT": "sleep@phase=backward,seconds=0.3"}
    process = subprocess.Popen(command, cwd=tmp_path, env=_environment(slow), stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not (metrics.exists() and len(lines(metrics)) >= 4):
        time.sleep(0.05)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == code, errors
    assert "resume=true" in errors
    assert "Traceback" not in errors
    succeed(chainft("train", "run=stopped", "resume=true"))
    assert trace(tmp_path / "stopped") == trace(whole)


def test_out_of_memory_goes_on_with_smaller_micro_batches(chainft: Chainft, words: list[str], tmp_path: Path) -> None:
    """fault 30"""
    fault = {**TESTING, "CHAINFT_FAULT": "oom@step=4,phase=forward,count=1"}
    done = succeed(chainft("train", *words, "run=run", env=fault))
    assert "out of memory at step 4: going on with at most 4 examples" in done.stderr
    assert len(trace(tmp_path / "run")[0]) == 20


def test_a_loss_that_is_not_finite_stops_with_the_batch(chainft: Chainft, words: list[str], tmp_path: Path) -> None:
    """fault 29"""
    fault = {**TESTING, "CHAINFT_FAULT": "nan@step=8"}
    done = chainft("train", *words, "run=run", env=fault)
    assert done.returncode == 5, done.stderr
    assert "train.conll:" in (tmp_path / "run" / "bad_batch.json").read_text(encoding="utf-8")
    assert "step 8" in done.stderr


def test_a_full_disk_keeps_the_checkpoint_before(
    chainft: Chainft, words: list[str], whole: Path, tmp_path: Path
) -> None:
    """fault 27"""
    fault = {**TESTING, "CHAINFT_FAULT": "enospc@step=9,phase=save.optimizer"}
    done = chainft("train", *words, "run=run", env=fault)
    assert done.returncode == 7, done.stderr
    succeed(chainft("train", "run=run", "resume=true"))
    assert trace(tmp_path / "run") == trace(whole)


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    chainft: Chainft, words: list[str], whole: Path, tmp_path: Path
) -> None:
    """fault 38"""
    chainft("train", *words, "run=run", env={**TESTING, "CHAINFT_FAULT": "kill@step=11,phase=forward"})
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-5] ^= 4
    (newest / "model.safetensors").write_bytes(content)
    done = succeed(chainft("train", "run=run", "resume=true"))
    assert newest.name in done.stderr
    assert "model.safetensors" in done.stderr
    assert trace(tmp_path / "run") == trace(whole)


def test_a_run_with_relative_paths_goes_on_from_another_folder(
    chainft: Chainft, words: list[str], tiny_encoder: Path, tmp_path: Path
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "model").symlink_to(tiny_encoder)
    settings = [word for word in words if not word.startswith("model=")]
    command = [sys.executable, "-m", "chainft", "train", *settings, "model=model", "run=run", "train.max_steps=2"]
    subprocess.run(command, cwd=tmp_path / "project", env=_environment({}), check=True, capture_output=True)
    succeed(chainft("train", "run=project/run", "resume=true"))
    succeed(chainft("evaluate", "project/run"))


def test_changed_data_or_settings_are_refused_on_resume(chainft: Chainft, words: list[str], tmp_path: Path) -> None:
    """fault 8, fault 17"""
    fault = {**TESTING, "CHAINFT_FAULT": "kill@step=8,phase=forward"}
    chainft("train", *words, "run=run", env=fault)
    changed = chainft("train", "run=run", "resume=true", "optimizer.lr=0.5", "task.label_smoothing=0.1")
    assert changed.returncode == 2
    assert "optimizer.lr was 0.01 and is now 0.5" in changed.stderr
    assert "task.label_smoothing" in changed.stderr
    train = next(word.partition("=")[2] for word in words if word.startswith("data.train="))
    content = Path(train).read_text(encoding="utf-8")
    try:
        Path(train).write_text(content + "anna\tB-PER\n\n", encoding="utf-8")
        moved = chainft("train", "run=run", "resume=true")
    finally:
        Path(train).write_text(content, encoding="utf-8")
    assert moved.returncode == 9, moved.stderr
    assert "allow_data_change" in moved.stderr


def test_a_folder_that_exists_or_is_in_use_is_left_alone(chainft: Chainft, words: list[str], tmp_path: Path) -> None:
    """fault 28"""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep", encoding="utf-8")
    done = chainft("train", *words, "run=mine")
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_secrets_of_the_environment_reach_no_file(chainft: Chainft, words: list[str], tmp_path: Path) -> None:
    """fault 7"""
    secret = "hf_0123456789secret"
    settings = ["data.cache_dir=${oc.env:MY_TOKEN}", "tracker.name=tensorboard", "train.max_steps=1"]
    succeed(chainft("train", *words, "run=run", *settings, env={"MY_TOKEN": secret}))
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert "${oc.env:MY_TOKEN}" in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")


def _environment(extra: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **extra}

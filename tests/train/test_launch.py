"""Runs of several processes give what one process gives, however they were started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chainft.config.saved import compose_resumed
from chainft.errors import ConfigError, Stopped
from chainft.run_folder import RunFolder
from chainft.train.launch import launch
from tests.train.same_runs import Train, assert_same_runs


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_give_the_numbers_of_one(launched: Train, alone: RunFolder, count: int) -> None:
    assert_same_runs(alone, launched(f"launch.num_processes={count}", name="several"))


@pytest.mark.parametrize(
    "words",
    [
        ["train.micro_batch_size=2", "train.padding_free=false"],
        ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"],
        ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.unfreeze_at=0.5"],
        ["train.batch_size=2", "data.max_train_samples=9"],  # The last batch has one example for two processes.
        ["optimizer=sgd", "optimizer.lr=0.3", "optimizer.options={momentum: 0.9}", "train.max_grad_norm=0.1"],
    ],
)
def test_they_do_so_with_these_settings(launched: Train, words: list[str]) -> None:
    assert_same_runs(launched(*words, "launch.num_processes=1", name="alone"), launched(*words, name="both"))


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["train.micro_batch_size=2", "train.batch_size=5", "train.gradient_checkpointing=true"],
        ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"],
        ["chain.split=2", "chain.stages.stage1.share={with: stage0}"],
        [
            "chain.split=2",
            "chain.stages.stage1.lora={r: 2}",
            "chain.stages.stage0.frozen=true",
            "evaluation.before_training=false",
        ],
        ["optimizer=sgd", "optimizer.lr=0.3", "train.max_grad_norm=0.1", "launch.reshard_after_forward=false"],
        ["train.mixed_precision=bf16", "optimizer=sgd", "optimizer.lr=0.03"],
    ],
)
def test_sharded_processes_do_so_too(launched: Train, words: list[str]) -> None:
    plain = [word for word in words if not word.startswith("launch.")]
    if any("lora" in word for word in words):
        pytest.importorskip("peft")
    alone = launched("launch.num_processes=1", *plain, "train.padding_free=false", name="alone")
    tolerance = 1e-5 if "train.mixed_precision=bf16" not in words else 3e-3
    assert_same_runs(alone, launched("launch.fsdp=true", *words, name="sharded"), tolerance=tolerance)


def test_a_sharded_run_goes_on_with_another_number_of_processes(launched: Train, tmp_path: Path) -> None:
    """4 shards -> 1 process -> 2 shards (fault 36)."""
    words = ["train.padding_free=false"]
    whole = launched(*words, "launch.num_processes=1", name="whole")
    parts = tmp_path / "parts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINFT_TESTING", "1")
        patch.setenv("CHAINFT_FAULT", "term@step=4,phase=forward,rank=3,count=1")
        with pytest.raises(Stopped):
            launched(*words, "launch.num_processes=4", "launch.fsdp=true", name="parts")
        patch.setenv("CHAINFT_FAULT", "term@step=8,phase=forward,count=1")
        with pytest.raises(Stopped):
            launch(compose_resumed(str(parts), ["launch.num_processes=1", "launch.fsdp=false"]))
    launch(compose_resumed(str(parts), ["launch.num_processes=2", "launch.fsdp=true"]))
    assert_same_runs(whole, RunFolder(parts))


def test_a_run_goes_on_with_another_number_of_processes(launched: Train, alone: RunFolder, tmp_path: Path) -> None:
    """4 -> 1 -> 2 processes (fault 36), stopped each time by one that is asked to."""
    words = ["train.padding_free=false"]
    whole = launched(*words, "launch.num_processes=1", name="whole")
    parts = tmp_path / "parts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINFT_TESTING", "1")
        patch.setenv("CHAINFT_FAULT", "term@step=4,phase=forward,rank=3,count=1")
        with pytest.raises(Stopped):
            launched(*words, "launch.num_processes=4", name="parts")
        assert (parts / "checkpoints" / "last").resolve().name == "step-000004"
        patch.setenv("CHAINFT_FAULT", "term@step=8,phase=forward,count=1")
        with pytest.raises(Stopped):
            launch(compose_resumed(str(parts), ["launch.num_processes=1"]))
    launch(compose_resumed(str(parts), ["launch.num_processes=2"]))
    assert_same_runs(whole, RunFolder(parts))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torch.distributed.run", "accelerate.commands.launch"])
def test_other_launchers_start_the_same_run(
    launched: Train, alone: RunFolder, still_encoder: Path, ner_files: list[str], tmp_path: Path, launcher: str
) -> None:
    """Their processes find each other by the environment, share one run folder, and the first one speaks."""
    given = {"torch.distributed.run": ["--nproc_per_node=2"], "accelerate.commands.launch": [*_ACCELERATE]}[launcher]
    words = [f"model={still_encoder}", "task=ner", "train.batch_size=7", "train.num_train_epochs=2"]
    words += ["optimizer.lr=0.005", "report.enabled=false", *ner_files, f"run={tmp_path / 'launched'}"]
    command = [sys.executable, "-m", launcher, *given, "-m", "chainft", "train", *words]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("try the model on your own words") == 1
    assert_same_runs(alone, RunFolder(tmp_path / "launched"))


_ACCELERATE = ("--cpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")


def test_what_one_process_finds_wrong_ends_all_at_once(launched: Train) -> None:
    with pytest.raises(ConfigError) as caught:
        launched("launch.num_processes=2", "launch.pipeline=2", "launch.schedule=zbv", name="run")
    assert "needs 4 stages, 2 a place, and the model has 2 blocks" in caught.value.render()

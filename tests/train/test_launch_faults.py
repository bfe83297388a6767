"""Runs of several processes end in order when one of them does not, and go on from what was saved."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from chainft.config.saved import compose_resumed
from chainft.errors import DataError, DistributedError, DivergedError, Stopped
from chainft.run_folder import RunFolder
from chainft.train import launch as launch_module
from chainft.train.checkpoint import CheckpointStore
from chainft.train.launch import launch
from tests.train.same_runs import Train, assert_same_runs


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (
            "kill@step=9,phase=forward,rank=1",
            "rank 1 of 2 (was killed by SIGKILL|died without a word.*); the last whole step is 8",
        ),
        (
            "kill@step=9,phase=forward,rank=0",
            "rank 0 of 2 (was killed by SIGKILL|died without a word.*); the last whole step is 8",
        ),
        (
            "abort@step=9,phase=forward,rank=1",
            "rank 1 of 2 crashed in native code: Aborted; .*; the last whole step is 8",
        ),
        ("raise@step=9,phase=backward,rank=1", "rank 1 of 2 failed: chainft.train.faults.InjectedError"),
        ("sleep@step=9,phase=forward,rank=1,seconds=600", "rank 1 of 2 did not answer within launch.timeout_s = 8 s"),
    ],
)
def test_a_process_that_fails_ends_the_run_with_its_rank(
    launched: Train, fault: Callable[[str], None], tmp_path: Path, what: str, told: str
) -> None:
    """Faults 33 and 34; what was saved is whole."""
    fault(what)
    start = time.monotonic()
    with pytest.raises(DistributedError) as caught:
        launched(*(["launch.timeout_s=8"] if what.startswith("sleep") else []), name="run")
    assert re.search(told, caught.value.render())
    assert "resume=true" in caught.value.render()
    assert time.monotonic() - start < 240  # Far below what the process would sleep, whatever else the machine does.
    if what.startswith(("abort", "sleep")):
        assert "where it stood is in stacks.txt" in caught.value.render()
        stacks = (tmp_path / "run" / "stacks.txt").read_text(encoding="utf-8")
        assert stacks.startswith("rank 1 of 2") and "faults.py" in stacks
    found = CheckpointStore(tmp_path / "run" / "checkpoints").latest()
    assert found is not None and found.step == 6


def test_a_run_that_crashed_before_its_first_step_starts_again_in_its_folder(
    launched: Train, fault: Callable[[str], None], tmp_path: Path
) -> None:
    fault("abort@step=1,phase=forward,rank=1")
    with pytest.raises(DistributedError) as caught:
        launched(name="run")
    assert "start the run again" in caught.value.render()
    assert (tmp_path / "run" / "stacks.txt").is_file()
    fault("")
    launched("train.max_steps=2", name="run")
    assert not (tmp_path / "run" / "stacks.txt").exists()


@pytest.mark.parametrize("step", [2, 9])
def test_a_run_that_lost_a_process_starts_again_by_itself(
    launched: Train, alone: RunFolder, fault: Callable[[str], None], tmp_path: Path, step: int
) -> None:
    """Before the first checkpoint and after it."""
    marker = tmp_path / "happened"
    fault(f"kill@step={step},phase=forward,rank=1,once={marker}")
    assert_same_runs(alone, launched("launch.max_restarts=1", name="again"))
    assert marker.exists()


def test_it_does_so_before_anything_was_saved(
    launched: Train, alone: RunFolder, fault: Callable[[str], None], tmp_path: Path
) -> None:
    fault(f"kill@step=2,phase=forward,rank=0,once={tmp_path / 'happened'}")
    assert_same_runs(alone, launched("launch.max_restarts=1", name="again"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_leaves_early_with_exit_code_0_ends_the_run(
    launched: Train, fault: Callable[[str], None], rank: int
) -> None:
    """Fault 33: where others wait for it at the store too."""
    fault(f"exit@step=6,phase=save,rank={rank}")
    start = time.monotonic()
    with pytest.raises(DistributedError) as caught:
        launched(name="run")
    assert f"rank {rank} of 2 died without a word" in caught.value.render()
    assert time.monotonic() - start < 240


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_killed_in_an_asynchronous_save_changes_nothing(
    launched: Train, alone: RunFolder, fault: Callable[[str], None], tmp_path: Path, rank: int
) -> None:
    """Fault 24: shards are written while the training goes on; it starts again from what was committed before."""
    marker = tmp_path / "happened"
    fault(f"kill@step=6,phase=save.optimizer,rank={rank},once={marker}")
    saving = ["checkpoint.asynchronous=true", "checkpoint.every=2", "launch.fsdp=true", "launch.max_restarts=1"]
    assert_same_runs(alone, launched(*saving, "train.padding_free=false", name="again"))
    assert marker.exists()
    last = (tmp_path / "again" / "checkpoints" / "last").resolve()
    assert {path.name for path in last.glob("model*")} == {f"model-0000{one}-of-00002.safetensors" for one in (1, 2)}


def test_the_fault_of_one_process_is_told_once_and_not_tried_again(
    launched: Train, fault: Callable[[str], None]
) -> None:
    fault("nan@step=3,rank=1")
    with pytest.raises(DivergedError) as caught:
        launched("launch.max_restarts=3", name="run")
    assert "step 3" in caught.value.render() and "rank" not in caught.value.render()


def test_bad_data_are_told_as_by_one_process(launched: Train, tmp_path: Path) -> None:
    bad = tmp_path / "bad.conll"
    bad.write_text("Anna B-PER\nParis I-LOC X\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        launched(f"data.train={bad}", name="run")
    assert "bad.conll" in caught.value.render() and "rank" not in caught.value.render()


def test_memory_that_one_process_lacks_makes_all_take_smaller_micro_batches(
    launched: Train, alone: RunFolder, fault: Callable[[str], None]
) -> None:
    """Fault 30."""
    fault("oom@step=3,phase=forward,rank=1,count=1")
    assert_same_runs(alone, launched(name="both"))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("phase", ["forward", "save.model"])
def test_a_signal_to_one_process_stops_and_saves_all(
    launched: Train, alone: RunFolder, fault: Callable[[str], None], tmp_path: Path, rank: int, phase: str
) -> None:
    """Fault 26."""
    fault(f"term@step=6,phase={phase},rank={rank},count=1")
    with pytest.raises(Stopped):
        launched(name="run")
    launch(compose_resumed(str(tmp_path / "run"), []))
    assert_same_runs(alone, RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_process_that_tokenises_stops_all(
    launched: Train, fault: Callable[[str], None], rank: int
) -> None:
    """Fault 26: they have not agreed yet to stop together."""
    fault(f"term@phase=tokenise,rank={rank},count=1")
    with pytest.raises(Stopped):
        launched("launch.max_restarts=1", name="run")


def test_a_signal_that_comes_before_the_processes_are_there_is_not_lost(launched: Train, tmp_path: Path) -> None:
    before = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    started = patch.object(launch_module, "_elastic_config", side_effect=lambda *one: before.start() or _config(*one))
    with started, pytest.raises(Stopped):
        launched("train.num_train_epochs=50", name="run")


_config = launch_module._elastic_config


def test_a_machine_that_meets_no_other_one_says_so(launched: Train) -> None:
    words = ["launch.num_machines=2", "launch.main_process_ip=127.0.0.1", "launch.timeout_s=2"]
    with pytest.raises(DistributedError) as caught:
        launched(*words, "launch.main_process_port=29517", name="run")
    assert "launch.main_process_ip" in caught.value.render() and "127.0.0.1:29517" in caught.value.render()


@pytest.mark.slow
def test_a_signal_to_the_whole_group_of_processes_saves(
    still_encoder: Path, ner_files: list[str], tmp_path: Path
) -> None:
    """As `timeout`, and many schedulers, send it: what the workers are forks of gets it too, and must outlive them."""
    run = RunFolder(tmp_path / "run")
    words = [f"model={still_encoder}", "task=ner", "train.num_train_epochs=500", *ner_files, f"run={run.path}"]
    command = [sys.executable, "-m", "chainft", "train", *words, "launch.num_processes=2"]
    started = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while started.poll() is None and not (run.metrics.is_file() and len(run.metrics.read_text().splitlines()) > 3):
        time.sleep(0.2)
    os.killpg(started.pid, signal.SIGTERM)
    _, told = started.communicate(timeout=60)
    assert started.returncode == 75, told
    found = CheckpointStore(run.checkpoints).latest()
    assert found is not None and found.step > 3

"""Which failure of several is told."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from chainft.config.launch import LaunchConfig
from chainft.config.rules import parse_run
from chainft.config.run import RunConfig
from chainft.errors import Interrupted, Stopped
from chainft.run_folder import RunFolder
from chainft.train.outcomes import crash_file, first_cause, read_outcomes, write_outcome


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    one = parse_run({"task": {"name": "ner"}, "data": {"name": "conll", "train": "x"}, "run": str(tmp_path / "run")})
    return replace(one, launch=LaunchConfig(num_processes=4))


def test_ranks_of_other_machines_are_not_blamed(config: RunConfig, tmp_path: Path) -> None:
    several = replace(config.launch, num_machines=2, machine_rank=1, main_process_ip="a")
    for rank in (2, 3):
        write_outcome(tmp_path, rank, ConnectionError("closed by peer"))
    found = first_cause(
        read_outcomes(tmp_path), replace(config, launch=several), reported=(2, 1), here=(2, 3)
    ).error.render()
    assert "rank 2 of 4 lost the others" in found and "another machine" in found


def test_who_vanished_is_blamed_for_what_the_others_miss(config: RunConfig, tmp_path: Path) -> None:
    for rank in (0, 1, 3):
        write_outcome(tmp_path, rank, ConnectionError("rank 2 is not there any more"))
    assert "rank 2 of 4 died" in first_cause(read_outcomes(tmp_path), config, reported=(0, 8)).error.render()


def test_a_stop_of_one_is_told_as_such_and_not_tried_again(config: RunConfig, tmp_path: Path) -> None:
    write_outcome(tmp_path, 1, Stopped("stopped by SIGTERM", slug="stopped"))
    write_outcome(tmp_path, 0, ConnectionError("closed by peer"))
    found = first_cause(read_outcomes(tmp_path), config, reported=(0, 1))
    assert isinstance(found.error, Stopped) and not found.is_repeatable


def test_a_second_interrupt_is_no_failure(config: RunConfig, tmp_path: Path) -> None:
    found = first_cause({}, config, reported=(0, Interrupted.exit_code))
    assert isinstance(found.error, Interrupted) and not found.is_repeatable


STACKS = '{} 0x01 (most recent call first):\n  File "a.py", line 1 in Connection'
CRASH = f"Fatal Python error: Aborted\n\n{STACKS}"
"""Of a thread that Python knows, if that one aborts: `Current thread`; of others, `Thread`."""


@pytest.mark.parametrize("has_gpu", [False, True])
def test_an_abort_of_nccl_is_explained(config: RunConfig, monkeypatch: pytest.MonkeyPatch, has_gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    told = first_cause({}, config, reported=(0, -signal.SIGABRT)).error.render()
    assert "killed by SIGABRT" in told and ("NCCL" in told) == has_gpu


@pytest.mark.parametrize("has_gpu", [False, True])
@pytest.mark.parametrize("thread", ["Thread", "Current thread"])
def test_a_crash_is_told_with_its_stacks(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_gpu: bool, thread: str
) -> None:
    """Also where others noticed before; an abort within Python's own threads is none of NCCL's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    for rank in (0, 1):
        write_outcome(tmp_path, rank, ConnectionError("closed by peer"))
    write_outcome(tmp_path, 3, ConnectionError("closed by peer"))
    trace = CRASH.format(thread)
    crash_file(tmp_path, 2).write_text(f"{trace}\n\nExtension modules: a, b (total: 2)\n")
    crash_file(tmp_path, 3).touch()
    RunFolder(Path(str(config.run))).path.mkdir()
    error = first_cause(read_outcomes(tmp_path), config, reported=(0, 1)).error
    assert "rank 2 of 4 crashed in native code: Aborted" in error.render()
    assert ("NCCL" in error.render()) == (has_gpu and thread == "Thread")
    assert error.__notes__ == [trace]
    assert RunFolder(Path(str(config.run))).stacks.read_text() == f"rank 2 of 4\n\n{trace}\n"


@pytest.mark.parametrize(
    ("has_gpu", "hung", "told"),
    [
        (True, {}, "rank 1 of 4 was killed by SIGKILL"),
        (True, {1: STACKS}, "rank 1 of 4 did not answer within launch.timeout_s"),
        (False, {}, "rank 0 of 4 crashed in native code: Aborted"),
    ],
)
def test_what_nccl_aborts_for_is_the_cause(
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    has_gpu: bool,
    hung: dict[int, str],
    told: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    for rank in (0, 2, 3):
        crash_file(tmp_path, rank).write_text(CRASH.format("Thread"))
    found = first_cause(read_outcomes(tmp_path), config, reported=(1, -signal.SIGKILL), hung=hung)
    assert told in found.error.render()


def test_a_fork_that_crashes_leaves_no_stacks_of_the_process(tmp_path: Path) -> None:
    """And that process has the handler of before again, when it ends."""
    code = f"""
import faulthandler, os, pathlib
from chainft.train.worker import _leaving_stacks
faulthandler.enable()
path = pathlib.Path({str(tmp_path / "rank_0.crash")!r})
with _leaving_stacks(path):
    child = os.fork()
    if not child:
        os.abort()
    assert os.waitpid(child, 0)[1]
assert faulthandler.is_enabled() and path.read_text() == ""
with _leaving_stacks(path):
    os.abort()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGABRT
    assert (tmp_path / "rank_0.crash").read_text().startswith("Fatal Python error: Aborted")

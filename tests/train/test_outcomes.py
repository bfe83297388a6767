"""Which failure of several is told."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from chainft.config.launch import LaunchConfig
from chainft.config.rules import parse_run
from chainft.config.run import RunConfig
from chainft.errors import Interrupted, Stopped
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


def test_an_abort_of_nccl_is_explained(config: RunConfig) -> None:
    assert "NCCL" in first_cause({}, config, reported=(0, -signal.SIGABRT)).error.render()


@pytest.mark.parametrize(("thread", "is_explained"), [("Thread 0x01", True), ("Current thread 0x01", False)])
def test_a_crash_is_told_with_its_stacks(config: RunConfig, tmp_path: Path, thread: str, is_explained: bool) -> None:
    """Also where others noticed before; an abort within Python's own threads is none of NCCL's."""
    for rank in (0, 1):
        write_outcome(tmp_path, rank, ConnectionError("closed by peer"))
    stacks = f'{thread} (most recent call first):\n  File "a.py", line 1 in Connection'
    crash_file(tmp_path, 2).write_text(
        f"Fatal Python error: Aborted\n\n{stacks}\n\nExtension modules: a, b (total: 2)\n"
    )
    crash_file(tmp_path, 3).touch()  # It goes on.
    error = first_cause(read_outcomes(tmp_path), config, reported=(0, 1)).error
    assert "rank 2 of 4 crashed in native code: Aborted" in error.render()
    assert ("NCCL" in error.render()) == is_explained
    assert error.__notes__ == [f"Fatal Python error: Aborted\n\n{stacks}"]

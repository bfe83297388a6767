"""A run in a fork of the warm process is like one in a new Python: output, exit code, signals, numbers."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chainft.cli import jobs
from chainft.cli.jobs import NewProcess, Process, Surroundings, WarmProcess, has_warm_process, warm_context
from chainft.cli.main import main

pytestmark = pytest.mark.skipif(not has_warm_process(), reason="runs are forks on Linux only")


@pytest.fixture(params=["new", "warm"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(jobs, "WARM_MODULES", ("chainft.cli.main",))
    return str(request.param)


def started(kind: str, words: list[str], log: Path) -> Process:
    return (
        WarmProcess(words, Surroundings(str(log)), warm_context())
        if kind == "warm"
        else NewProcess(words, log, sys.executable)
    )


def code_of(process: Process) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (code := process.wait(0.5)) is not None:
            return code
    raise AssertionError("the run does not end")


def test_output_goes_to_the_end_of_the_log_and_the_exit_code_comes_back(kind: str, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    log.write_text("$ chainft\n", encoding="utf-8")
    assert code_of(started(kind, ["--version"], log)) == 0
    assert code_of(started(kind, ["trane"], log)) == 2
    told = log.read_text(encoding="utf-8").splitlines()
    assert told[0] == "$ chainft" and told[1].startswith("chainft ") and told[2].startswith("error[")


def test_a_signal_reaches_the_run_and_its_end_is_told(kind: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Reading the words of a config from a pipe that nobody writes waits for ever.
    process = started(kind, ["predict", "nowhere", "--input", str(pipe)], tmp_path / "log")
    process.send_signal(signal.SIGKILL)
    assert code_of(process) == -signal.SIGKILL
    process.send_signal(signal.SIGTERM)  # It is gone: no error.


@pytest.mark.slow
def test_a_sweep_by_forks_gives_the_numbers_of_one_by_new_processes(
    tiny_encoder: Path, ner_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"model={tiny_encoder}", "train.max_steps=4", "train.batch_size=8", "report.enabled=false", *ner_files]
    found = [_sweep([*words, f"sweep.dir=warm_{warm}", f"sweep.warm={warm}"]) for warm in ("true", "false")]
    assert found[0] == found[1] and len(found[0]) == 2


def _sweep(words: list[str]) -> list[Any]:
    assert main(["train", "-m", "task=ner", "seed=1,2", *words]) == 0
    folder = Path(next(word for word in words if word.startswith("sweep.dir=")).partition("=")[2])
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    results = [json.loads(Path(row["folder"], "all_results.json").read_text(encoding="utf-8")) for row in rows]
    return [{name: value for name, value in one.items() if name != "train_time_s"} for one in results]

"""Processes that Slurm started find their places."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chainft.cli.slurm import adopt_step, step_environment
from chainft.config.rules import parse_run
from chainft.config.run import RunConfig
from chainft.errors import DistributedError

STEP = {
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_STEP_NODELIST": "gpu[3-4]",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_JOB_ID": "20003",
}


def config(**launch: object) -> RunConfig:
    return parse_run({"task": {"name": "ner"}, "data": {"name": "conll", "train": "x"}, "launch": launch})


def test_a_step_of_several_nodes_meets_at_the_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\n[ \"$3\" = 'gpu[3-4]' ] && printf 'gpu3\\ngpu4\\n'\n")
    scontrol.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = step_environment(STEP)
    assert found["MASTER_ADDR"] == "gpu3" and found["MASTER_PORT"] == "20003"
    assert (found["RANK"], found["WORLD_SIZE"]) == ("5", "7")
    assert (found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]) == ("1", "3")


def test_what_slurm_does_not_tell_is_named() -> None:
    with pytest.raises(DistributedError, match="SLURM_LOCALID"):
        step_environment({name: value for name, value in STEP.items() if name != "SLURM_LOCALID"})


@pytest.mark.parametrize(("launch", "adopted"), [({}, True), ({"num_processes": 8, "num_machines": 2}, False)])
def test_tasks_are_ranks_unless_the_run_starts_its_own(
    monkeypatch: pytest.MonkeyPatch, launch: dict[str, object], adopted: bool
) -> None:
    given = config(**launch, **({"main_process_ip": "a"} if launch else {}))
    for name, value in {**STEP, "SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # So that it is taken away again.
        monkeypatch.delenv(name)
    adopt_step(given)
    assert ("RANK" in os.environ) is adopted


@pytest.mark.slow
def test_srun_trains_one_run(tiny_encoder: Path, ner_files: list[str], tmp_path: Path) -> None:
    words = [f"model={tiny_encoder}", "task=ner", "train.batch_size=8", "train.max_steps=3", "report.enabled=false"]
    command = [sys.executable, "-m", "chainft", "train", *words, *ner_files, f"run={tmp_path / 'run'}"]
    step = {**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "2"}
    started = []
    for rank in ("0", "1"):
        place = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": "0", "OMP_NUM_THREADS": "1"}
        around = {**os.environ, **step, **place, "SLURM_JOB_ID": str(os.getpid())}
        started.append(
            subprocess.Popen(command, env=around, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    ends = [process.communicate(timeout=180) for process in started]
    assert [process.returncode for process in started] == [0, 0], ends
    assert ends[1] == ("", "")
    plan = json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))
    assert plan["processes"]["number"] == 2

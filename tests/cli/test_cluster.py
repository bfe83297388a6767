"""Runs as jobs of a cluster: submitit's own executor here, and a Slurm whose commands are small scripts."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from chainft.cli.cluster import Run, SubmititEngine
from chainft.cli.jobs import Process
from chainft.cli.main import main
from chainft.config.sweep_config import SweepConfig
from chainft.errors import ConfigError

submitit = pytest.importorskip("submitit", reason="the extra `cluster` is not installed")
SLURM = SweepConfig(engine="submitit", slurm={"partition": "gpu", "time": 120, "mem": "32G"}, devices_per_job=2)


def code_of(process: Process) -> int:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if (code := process.wait(0.1)) is not None:
            return code
    raise AssertionError("the job does not end")


def test_exit_code_and_output_of_a_job_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = SubmititEngine(SweepConfig(engine="submitit"), tmp_path / "jobs")
    good = engine.start(["--version"], Path("good.log"), None)
    bad = engine.start(["predict", "nowhere"], Path("bad.log"), None)
    assert (code_of(good), code_of(bad)) == (0, 2)
    assert Path("good.log").read_text(encoding="utf-8").startswith("chainft ")
    assert "error[config/no-run]" in Path("bad.log").read_text(encoding="utf-8")


def test_signal_ends_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    engine = SubmititEngine(SweepConfig(engine="submitit"), tmp_path / "jobs")
    job = engine.start(["train", "task=ner", "train.num_train_epochs=1000"], Path("log"), None)
    while not Path("log").exists():
        time.sleep(0.05)
    job.send_signal(signal.SIGTERM)
    assert code_of(job) == 1  # It has not come far enough to save anything.
    job.send_signal(signal.SIGTERM)  # It is gone: no error.


def test_job_that_is_queued_again_goes_on_with_its_run(tmp_path: Path) -> None:
    run = Run(("train", "task=ner", f"run='{tmp_path}/it\\'s'"), "log", str(tmp_path))
    assert run.checkpoint().function == run
    (tmp_path / "it's" / "checkpoints" / "last").mkdir(parents=True)
    assert run.checkpoint().function.words == ("train", f"run='{tmp_path}/it\\'s'", "resume=true")


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (SweepConfig(engine="submitit", slurm={"time": 5}), "sweep.slurm"),
        (SweepConfig(engine="submitit", devices_per_job=1), "sweep.devices_per_job"),
    ],
)
def test_settings_of_slurm_are_refused_where_there_is_none(config: SweepConfig, key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no effect") as caught:
        SubmititEngine(config, tmp_path)
    assert caught.value.problems[0].key == key


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.slurm.time=5"], "sweep.slurm = {'time': 5} has no effect: jobs run on this machine"),
        (["sweep.engine=submitit", "sweep.warm=false"], "sweep.warm = false has no effect"),
    ],
)
def test_settings_without_effect_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-m", "task=ner", "seed=1,2", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`sbatch` keeps the file that it is given; `srun` and `scancel` only exist."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {"sbatch": f"cp $1 {tmp_path}/batch; echo Submitted batch job 12", "srun": "", "scancel": ""}
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_slurm_is_asked_for_what_the_settings_say(slurm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SubmititEngine(SLURM, slurm / "jobs").start(["--version"], slurm / "log", None)
    asked = (slurm / "batch").read_text(encoding="utf-8")
    for line in ("--partition=gpu", "--time=120", "--mem=32G", "--gpus-per-node=2", "--job-name=chainft"):
        assert f"#SBATCH {line}\n" in asked
    assert sys.executable in asked and "executor 'slurm'" in capsys.readouterr().out


def test_slurm_needs_the_time_of_a_job(slurm: Path) -> None:
    with pytest.raises(ConfigError, match="after 5 minutes"):
        SubmititEngine(SweepConfig(engine="submitit", slurm={"partition": "gpu"}), slurm / "jobs")

"""A sweep that is started again goes on with what it did, and with the same settings only."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chainft.cli.jobs import NewProcess
from chainft.cli.main import main
from chainft.cli.sweep_table import error_line
from chainft.run_folder import RunFolder, holder, lock
from tests.cli.fake_runs import RUN, calls, install, table

AGAIN = ["sweep.dir=s", "sweep.resume=true"]


@pytest.fixture
def fake(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(toy, monkeypatch)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seed=1,2", "train.batch_size=8"], ["train.batch_size was 32 in this sweep and is now 8"]),
        (
            ["seed=1,2", "optimizer.lr=0.5", "task.overlap=4"],
            ["optimizer.lr was 0.0003 in this sweep and is now 0.5", "task.overlap was 8 in this sweep and is now 4"],
        ),
        (["seed=1,2", "optimizer.options.eps=0.1"], ["optimizer.options.eps was not set in this sweep"]),
        (["seed=1,2", "optimizer=sgd,adamw"], ["what varies was seed in this sweep and is now optimizer, seed"]),
        (["optimizer.lr=0.5,0.1"], ["what varies was seed in this sweep and is now optimizer.lr"]),
    ],
)
def test_other_settings_are_refused(words: list[str], told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "seed=1,2", "sweep.dir=s"]) == 0
    before = Path("s/sweep.json").read_bytes()
    assert main([*RUN, *words, *AGAIN]) == 2
    printed = capsys.readouterr().err
    assert [line for line in told if line not in printed] == [], printed
    assert printed.count("error[config/changed-on-resume]") == len(told)
    assert Path("s/sweep.json").read_bytes() == before and len(calls()) == 2


@pytest.mark.usefixtures("fake")
def test_settings_that_change_no_number_may_differ() -> None:
    assert main([*RUN, "seed=1,2", "sweep.dir=s"]) == 0
    words = ["seed=2,1,3", "evaluation.batch_size=8", "sweep.num_parallel=2", "report.enabled=false"]
    assert main([*RUN, *words, *AGAIN]) == 0
    assert [(row["seed"], row["status"]) for row in table(Path("s"))] == [("1", "kept"), ("2", "kept"), ("3", "done")]


@pytest.mark.usefixtures("fake")
def test_value_that_is_asked_for_no_more_stays_in_the_table_if_it_is_finished() -> None:
    assert main([*RUN, "seed=1,13,2", "sweep.dir=s"]) == 1
    assert main([*RUN, "seed=2,3", *AGAIN]) == 0
    assert [(row["seed"], row["status"]) for row in table(Path("s"))] == [("1", "kept"), ("2", "kept"), ("3", "done")]


@pytest.mark.usefixtures("fake")
def test_secret_of_the_environment_is_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """fault 7"""
    monkeypatch.setenv("SECRET", "xyzzy")
    assert main([*RUN, "seed=1,2", "sweep.dir=s", "tracker.name=wandb", "data.encoding=${oc.env:SECRET}"]) == 0
    assert "xyzzy" not in Path("s/sweep.json").read_text(encoding="utf-8")


@pytest.mark.usefixtures("fake")
def test_two_sweeps_never_share_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """fault 28"""
    assert main([*RUN, "seed=1,2", "sweep.dir=s"]) == 0
    with lock(RunFolder(Path("s"))):
        assert main([*RUN, "seed=1,2", *AGAIN]) == 7
    assert f"sweep folder 's' is in use by process {os.getpid()} on" in capsys.readouterr().err
    assert main([*RUN, "seed=1,2", *AGAIN]) == 0


@pytest.mark.usefixtures("fake")
def test_flags_are_not_repeated_for_a_run_that_goes_on() -> None:
    """They have no effect there, and are refused."""
    Path("more").mkdir()
    assert main([*RUN, "--config-dir", "more", "seed=1,13", "sweep.dir=s"]) == 1
    (Path("s") / "001_seed=13" / "checkpoints" / "last").mkdir(parents=True)
    main([*RUN, "--config-dir", "more", "seed=1,13", *AGAIN])
    assert calls()[-1]["words"] == ["run='s/001_seed=13'", "resume=true"]


@pytest.mark.slow
def test_killed_sweep_keeps_finished_resumes_begun_and_repeats_failed_runs(
    tiny_encoder: Path, ner_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """faults 24 and 37: real runs; the parent is killed while the third of them is under way."""
    monkeypatch.chdir(tmp_path)
    given = dict(word.split("=") for word in ner_files)
    sentences = Path(given["data.train"]).read_text(encoding="utf-8")
    Path("long.conll").write_text(sentences * 12, encoding="utf-8")
    files = [given["data.train"], str(tmp_path / "later.conll"), str(tmp_path / "long.conll")]
    words = [
        *("train", "-m", "task=ner", "data=conll", f"model={tiny_encoder}", f"data.train={','.join(files)}"),
        *(f"data.validation={given['data.validation']}", "report.enabled=false", "evaluation.before_training=false"),
        *("train.batch_size=8", "train.num_train_epochs=2", "checkpoint.every=5", "data.test_fraction=0"),
        *("cache.prefix=false", "evaluation.baselines=false", "sweep.dir=s"),
    ]
    parent = NewProcess(words, Path("sweep.log"), sys.executable)
    try:
        third = _folder_of(2)
        _until(lambda: third().joinpath("metrics.jsonl").exists() and len(_steps(third())) >= 30)
    finally:
        parent.send_signal(signal.SIGKILL)
    assert parent.wait(10) == -signal.SIGKILL
    orphan = holder(RunFolder(third()))
    assert orphan is not None and orphan.pid != os.getpid()
    kept = _folder_of(0)() / "all_results.json"
    before, begun = kept.stat().st_mtime_ns, len(_steps(third()))

    Path("later.conll").write_text(sentences, encoding="utf-8")
    assert main([*words, "sweep.resume=true"]) == 0

    assert [row["status"] for row in table(Path("s"))] == ["kept", "done", "done"]
    assert kept.stat().st_mtime_ns == before
    log = Path(f"{third()}.log").read_text(encoding="utf-8")
    assert [line.split()[-1] for line in log.splitlines() if line.startswith("$ chainft")][-1] == "resume=true"
    assert begun < 120 and _steps(third()) == list(range(1, 121))
    assert holder(RunFolder(third())) is None


def _folder_of(number: int) -> Callable[[], Path]:
    def find() -> Path:
        return next((path for path in Path("s").glob(f"{number:03d}_*") if path.is_dir()), Path("absent"))

    return find


def _steps(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["step"] for line in lines if '"kind": "train"' in line]


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, Path("sweep.log").read_text(encoding="utf-8")
        time.sleep(0.02)


def test_error_of_an_earlier_try_is_not_told_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("$ chainft train\nerror[data/x]: old\n$ chainft train\nnoise\n\nKilled\n", encoding="utf-8")
    assert error_line(log) == "Killed"
    log.write_text("error[data/x]: old\n$ chainft train\n", encoding="utf-8")
    assert error_line(log) is None

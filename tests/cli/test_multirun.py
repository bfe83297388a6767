"""A sweep runs each job by itself, survives failures and signals, and sums up what came out."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from chainft.cli.main import main
from tests.cli.fake_runs import RUN, calls, install, table


@pytest.fixture(autouse=True)
def fake(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(toy, monkeypatch)


def test_every_combination_runs_in_its_own_process_and_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "seed=1,2", "optimizer=adamw,lion", "sweep.dir=s"]) == 0
    rows = table(Path("s"))
    assert [(row["seed"], row["optimizer"], row["status"]) for row in rows] == [
        ("1", "adamw", "done"),
        ("1", "lion", "done"),
        ("2", "adamw", "done"),
        ("2", "lion", "done"),
    ]
    assert [row["best_value"] for row in rows] == ["0.26", "0.26", "0.27", "0.27"]
    assert rows[2]["test_f1"] == "0.52"
    assert len({row["folder"] for row in rows}) == 4
    assert all(Path(row["folder"], "all_results.json").is_file() for row in rows)
    assert len({call["pid"] for call in calls()}) == 4
    printed = capsys.readouterr().out
    assert "validation f1" in printed and "0.5200" in printed and "s/sweep.csv" in printed


def test_folder_names_say_what_varies() -> None:
    assert main([*RUN, "seed=1,2", "model=starter,google/bert", "sweep.dir=s"]) == 0
    names = sorted(path.name for path in Path("s").iterdir() if path.is_dir())
    assert names[0] == "000_seed=1,model=starter"
    assert names[1] == "001_seed=1,model=google-bert"


def test_default_folder_holds_date_and_time() -> None:
    assert main([*RUN, "seed=1,2"]) == 0
    (folder,) = Path("multirun").iterdir()
    time.strptime(folder.name, "%Y-%m-%d_%H-%M-%S")


def test_failed_job_is_listed_and_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    """fault 37"""
    assert main([*RUN, "seed=1,13,2", "sweep.dir=s"]) == 1
    rows = table(Path("s"))
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert rows[1]["exit_code"] == "3"
    assert rows[1]["error"] == "error[data/unknown-label]: label 'PERS' is unknown"
    assert "label 'PERS' is unknown" in capsys.readouterr().out


def test_resumed_sweep_keeps_what_is_done_and_runs_the_rest_again(capsys: pytest.CaptureFixture[str]) -> None:
    """fault 37"""
    assert main([*RUN, "seed=1,13", "sweep.dir=s"]) == 1
    assert main([*RUN, "seed=1,13,2", "sweep.dir=s", "sweep.resume=true"]) == 1
    seeds = [word for call in calls() for word in call["words"] if word.startswith("seed=")]
    assert seeds == ["seed=1", "seed=13", "seed=13", "seed=2"]
    assert [row["status"] for row in table(Path("s"))] == ["kept", "failed", "done"]
    assert len({row["number"] for row in table(Path("s"))}) == 3
    assert "kept from before" in capsys.readouterr().out


def test_run_that_has_a_checkpoint_is_resumed() -> None:
    assert main([*RUN, "seed=1,13", "sweep.dir=s"]) == 1
    (Path("s") / "001_seed=13" / "checkpoints" / "last").mkdir(parents=True)
    main([*RUN, "seed=1,13", "sweep.dir=s", "sweep.resume=true"])
    assert calls()[-1]["words"] == ["run='s/001_seed=13'", "resume=true"]


def test_begun_run_without_a_checkpoint_starts_in_a_clean_folder() -> None:
    assert main([*RUN, "seed=1,13", "sweep.dir=s"]) == 1
    (Path("s") / "001_seed=13").mkdir()
    main([*RUN, "seed=1,13", "sweep.dir=s", "sweep.resume=true"])
    assert (Path("s") / "001_seed=13_2").is_dir()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_signal_stops_the_running_job_and_the_table_is_written(number: int, code: int) -> None:
    """fault 26"""

    def stop() -> None:
        for _ in range(200):
            if Path("s/001_seed=99/checkpoints/last").exists():
                break
            time.sleep(0.05)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    before = signal.getsignal(number)
    assert main([*RUN, "seed=1,99,2", "sweep.dir=s"]) == code
    thread.join()
    assert signal.getsignal(number) == before
    rows = table(Path("s"))
    assert [row["status"] for row in rows] == ["done", "stopped", "waiting"]
    assert rows[1]["exit_code"] == str(code)


def test_wrong_job_is_found_before_any_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, "optimizer.lr=1e-4,-1", "sweep.dir=s"]) == 2
    assert not Path("calls.jsonl").exists() and not Path("s").exists()
    assert "optimizer.lr = -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.dir=full"], "exists and is not empty"),
        (["sweep.dir=full", "sweep.resume=true"], "holds no sweep"),
    ],
)
def test_folder_in_the_way_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("full").mkdir()
    (Path("full") / "x").touch()
    assert main([*RUN, "seed=1,2", *words]) == 2
    assert message in capsys.readouterr().err


def test_flags_reach_the_jobs() -> None:
    (Path("more") / "optimizer").mkdir(parents=True)
    (Path("more") / "optimizer" / "mine.yaml").write_text("lr: 0.5\n", encoding="utf-8")
    assert main([*RUN, "--config-dir", "more", "optimizer=mine,sgd", "sweep.dir=s"]) == 0
    assert calls()[0]["words"][0] == "--config-dir=more"


def test_jobs_run_at_once_and_stand_in_the_table_in_their_order() -> None:
    """Each of the two waits for the other."""
    assert main([*RUN, "seed=21,22,1", "sweep.num_parallel=2", "sweep.dir=s"]) == 0
    assert [(row["number"], row["seed"]) for row in table(Path("s"))] == [("0", "21"), ("1", "22"), ("2", "1")]


def test_signal_stops_all_running_jobs() -> None:
    """fault 26"""
    thread = threading.Thread(target=_signal_when, args=(["s/000_seed=98", "s/001_seed=99"], signal.SIGINT))
    thread.start()
    assert main([*RUN, "seed=98,99,2", "sweep.num_parallel=2", "sweep.dir=s"]) == 130
    thread.join()
    assert [row["status"] for row in table(Path("s"))] == ["stopped", "stopped", "waiting"]
    assert [row["exit_code"] for row in table(Path("s"))] == ["130", "130", ""]


def _signal_when(folders: list[str], number: int) -> None:
    """Send this process a signal once runs of these folders have a checkpoint."""
    for _ in range(400):
        if all(Path(folder, "checkpoints", "last").exists() for folder in folders):
            break
        time.sleep(0.05)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("given", "threads"), [(None, "2"), ("7", "7")])
def test_jobs_at_once_share_the_cores(given: str | None, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert main([*RUN, "seed=1,2", "sweep.num_parallel=2", "sweep.dir=s"]) == 0
    assert [call["threads"] for call in calls()] == [threads, threads]


def test_each_job_has_devices_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7,8")
    assert main([*RUN, "seed=21,22,1", "sweep.devices_per_job=2", "launch.num_processes=2", "sweep.dir=s"]) == 0
    devices = [call["devices"] for call in calls()]
    assert {*devices[:2]} == {"2,3", "5,7"} and devices[2] in devices[:2]


@pytest.mark.parametrize(
    ("visible", "words", "message"),
    [
        ("", ["sweep.devices_per_job=1"], "no NVIDIA GPU is visible"),
        ("0,1,-1,2", ["sweep.devices_per_job=3", "launch.num_processes=auto"], "needs 3 GPUs; there are 2"),
        ("0,1", ["sweep.devices_per_job=1", "sweep.num_parallel=3"], "needs 3 GPUs; there are 2"),
        ("0,1", ["sweep.devices_per_job=1", "train.device=cpu"], "computes on the CPU"),
        ("0,1", ["sweep.devices_per_job=2"], "but launch.num_processes = 1 has as many devices"),
        (
            "0,1",
            ["launch.num_machines=2", "launch.num_processes=2", "launch.main_process_ip=a"],
            "each run of a sweep is on one machine",
        ),
    ],
)
def test_devices_that_are_not_there_are_refused(
    visible: str, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert main([*RUN, "seed=1,2", *words, "sweep.dir=s"]) == 2
    assert message in capsys.readouterr().err and not Path("s").exists()


def test_printed_jobs_are_those_of_the_sweep(capsys: pytest.CaptureFixture[str], toy: Path) -> None:
    """A scheduler runs them; the sweep that is resumed takes the finished ones and runs the rest."""
    words = [word for word in RUN if word != "sweep.warm=false"]
    assert main([*words, "seed=1,2", "sweep.dir=s", "--print-jobs"]) == 0
    first, second = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert first == ["chainft", "train", "task=toy", "data.name=toy", "data.train=x", "seed=1", "run='s/000_seed=1'"]
    assert not Path("calls.jsonl").exists()
    subprocess.run([toy / "fake-python", "-m", *second], check=True)
    assert main([*RUN, "seed=1,2", "sweep.dir=s", "sweep.resume=true"]) == 0
    assert [row["status"] for row in table(Path("s"))] == ["done", "kept"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.num_parallel=2"], "--print-jobs runs no job"),
        (["sweep=optuna"], "cannot know the jobs"),
    ],
)
def test_settings_that_printing_ignores_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN[:-1], "seed=1,2", *words, "--print-jobs"]) == 2
    assert message in capsys.readouterr().err
    assert main(["train", "task=toy", "--print-jobs"]) == 2

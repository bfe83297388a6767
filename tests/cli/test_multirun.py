"""A sweep runs each job by itself, survives failures and signals, and sums up what came out."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from chainft.cli import engines, trials
from chainft.cli.main import main

FAKE = '''\
#!{python}
"""Stands for `python -m chainft train ...`: writes results that follow from the words, in the named folder."""
import json, os, pathlib, signal, sys, time
words = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:] if "=" in word and not word.startswith("--"))
folder = pathlib.Path(words["run"].strip("'"))
with open("calls.jsonl", "a") as stream:
    stream.write(json.dumps({{"pid": os.getpid(), "words": sys.argv[4:]}}) + "\\n")
if words.get("seed") == "13":
    print("noise")
    print("error[data/unknown-label]: label 'PERS' is unknown", file=sys.stderr)
    sys.exit(3)
if words.get("seed") == "99":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (folder / "checkpoints" / "last").mkdir(parents=True)
    time.sleep(60)
folder.mkdir(parents=True, exist_ok=True)
seed = int(words.get("seed", 0))
scores = {{"values": {{"f1": 0.5 + seed / 100, "loss": 1.0}}}}
results = {{"main_metric": "f1", "best": {{"value": 0.25 + seed / 100}}, "validation": scores, "test": {{"after": scores}}}}
(folder / "all_results.json").write_text(json.dumps(results))
'''
RUN = ["train", "-m", "task=toy", "data.name=toy", "sweep.warm=false"]


@pytest.fixture(autouse=True)
def fake_python(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run `FAKE` instead of training."""
    script = toy / "fake-python"
    script.write_text(FAKE.format(python=sys.executable), encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(engines, "sys", types.SimpleNamespace(executable=str(script)))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def calls() -> list[list[str]]:
    return [json.loads(line)["words"] for line in Path("calls.jsonl").read_text(encoding="utf-8").splitlines()]


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
    lines = Path("calls.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["pid"] for line in lines}) == 4
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
    seeds = [word for words in calls() for word in words if word.startswith("seed=")]
    assert seeds == ["seed=1", "seed=13", "seed=13", "seed=2"]
    assert [row["status"] for row in table(Path("s"))] == ["kept", "failed", "done"]
    assert len({row["number"] for row in table(Path("s"))}) == 3
    assert "kept from before" in capsys.readouterr().out


def test_run_that_has_a_checkpoint_is_resumed() -> None:
    assert main([*RUN, "seed=1,13", "sweep.dir=s"]) == 1
    (Path("s") / "001_seed=13" / "checkpoints" / "last").mkdir(parents=True)
    main([*RUN, "seed=1,13", "sweep.dir=s", "sweep.resume=true"])
    assert calls()[-1] == ["run='s/001_seed=13'", "resume=true"]


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
    assert calls()[0][0] == "--config-dir=more"


def test_search_without_optuna_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials.importlib.util, "find_spec", lambda name: None)
    assert main([*RUN, "seed=1,2", "sweep=optuna", "sweep.dir=s"]) == 2
    assert "pip install 'chainft[sweep]'" in capsys.readouterr().err
    assert not Path("s").exists()


def test_tpe_finds_the_better_end() -> None:
    pytest.importorskip("optuna", reason="the extra `sweep` is not installed")
    words = ["seed=interval(0,12)", "sweep=optuna", "sweep.num_trials=12", "sweep.dir=s"]
    assert main([*RUN, *words]) == 0
    seeds = [int(row["seed"]) for row in table(Path("s"))]
    assert len(seeds) == 12 and max(seeds) >= 10
    assert main([*RUN, *words, "sweep.resume=true"]) == 0
    assert {row["status"] for row in table(Path("s"))} == {"kept"}

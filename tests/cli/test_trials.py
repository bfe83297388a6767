"""A search finds better values, stops poor trials early, and goes on with all it knows."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from chainft.cli import trials
from chainft.cli.main import main
from chainft.config.sweep import plan_sweep
from chainft.errors import ConfigError
from chainft.run_folder import RunFolder, write_text
from tests.cli.fake_runs import RUN, calls, install, table

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="the extra `sweep` is not installed"
)
SEARCH = [*RUN, "seed=interval(0,12)", "sweep=optuna", "sweep.dir=s"]


@pytest.fixture(autouse=True)
def fake(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(toy, monkeypatch)


def seeds(folder: str = "s") -> list[str]:
    return [row["seed"] for row in table(Path(folder))]


def study(folder: str = "s") -> Any:
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/{trials.DATABASE}")
    found = optuna.load_study(study_name=trials.STUDY, storage=storage).trials
    storage.engine.dispose()
    return found


def test_search_without_optuna_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trials.importlib.util, "find_spec", lambda name: None)
    assert main(SEARCH) == 2
    assert "pip install 'chainft[sweep]'" in capsys.readouterr().err
    assert not Path("s").exists()


def test_search_finds_the_better_end_and_goes_on_as_if_it_had_not_stopped() -> None:
    """The trials of 5 and then 12 are those of 12 at once, and none is made twice."""
    assert main([*SEARCH, "sweep.num_trials=5"]) == 0
    assert main([*SEARCH, "sweep.num_trials=12", "sweep.resume=true"]) == 0
    assert [row["status"] for row in table(Path("s"))] == ["kept"] * 5 + ["done"] * 7
    assert main([*SEARCH[:-1], "sweep.num_trials=12", "sweep.dir=whole"]) == 0
    assert seeds() == seeds("whole") and len(calls()) == 24
    assert max(map(int, seeds())) >= 10
    assert [trial.number for trial in study()] == list(range(12))


def test_stopped_and_failed_trials_run_again_with_their_values() -> None:
    """fault 37"""
    words = [*RUN, "seed=1,13,99", "sweep=optuna", "sweep.sampler=random", "sweep.num_trials=6", "sweep.dir=s"]
    words.append("sweep.seed=10")  # It draws 13, 1, 99 first.
    stopping = threading.Thread(target=_stop_when_one_waits)
    stopping.start()
    assert main(words) == 130
    stopping.join()
    before = table(Path("s"))
    assert {row["status"] for row in before} == {"done", "failed", "stopped"}
    Path("mended").touch()
    assert main([*words, "sweep.resume=true"]) == 0
    assert seeds()[: len(before)] == [row["seed"] for row in before]
    assert [row["status"] == "kept" for row in table(Path("s"))[: len(before)]] == [
        row["status"] == "done" for row in before
    ]
    states = [trial.state.name for trial in study()]
    assert states.count("COMPLETE") == 6 and len(states) == 6 + states.count("FAIL")


def _stop_when_one_waits() -> None:
    for _ in range(400):
        if any(Path("s").glob("*/checkpoints/last")):
            break
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("sampler", ["random", "qmc", "cmaes"])
def test_samplers_go_by_name(sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes", reason="the package cmaes is not installed")
    words = [*SEARCH, "optimizer.lr=tag(log,interval(1e-5,1e-3))", f"sweep.sampler={sampler}"]
    assert main([*words, "sweep.num_trials=2"]) == 0
    assert main([*words, "sweep.num_trials=4", "sweep.resume=true"]) == 0
    found = {row["optimizer.lr"] for row in table(Path("s"))}
    assert len(found) == 4 and all(1e-5 <= float(lr) <= 1e-3 for lr in found)


def test_several_trials_run_at_once() -> None:
    words = [*RUN, "seed=21,22", "sweep=optuna", "sweep.num_trials=4", "sweep.num_parallel=2", "sweep.dir=s"]
    Path("here-21").touch()
    Path("here-22").touch()
    assert main(words) == 0
    assert [trial.state.name for trial in study()] == ["COMPLETE"] * 4


def test_poor_trial_is_pruned_with_the_score_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poor runs go on for 20 s unless they are stopped."""
    monkeypatch.setenv("FAKE_EVALUATIONS", "1")
    words = [*SEARCH, "sweep.pruner=median", "sweep.sampler=random", "sweep.seed=2", "sweep.num_trials=12"]
    real = trials._pruner
    monkeypatch.setattr(trials, "_pruner", lambda name: _strict(name) if name == "median" else real(name))
    assert main(words) == 0
    rows = table(Path("s"))
    pruned = [row for row in rows if row["status"] == "pruned"]
    assert pruned and all(row["best_value"] == str(0.5 + int(row["seed"]) / 100) for row in pruned)
    assert {row["status"] for row in rows if int(row["seed"]) > 9} == {"done"}
    states = {trial.number: trial.state.name for trial in study()}
    assert [states[int(row["number"])] for row in pruned] == ["PRUNED"] * len(pruned)
    assert all(float(row["time_s"]) < 20 for row in pruned if int(row["seed"]) <= 3)
    assert main([*words, "sweep.num_trials=13", "sweep.pruner=none", "sweep.resume=true"]) == 0
    assert [row["status"] for row in table(Path("s"))].count("pruned") >= len(pruned)
    assert len(calls()) == 13


def _strict(name: str) -> Any:
    import optuna

    assert name == "median"
    return optuna.pruners.MedianPruner(n_startup_trials=2)


def test_scores_are_read_once_and_whole(tmp_path: Path) -> None:
    scores = trials._Scores(RunFolder(tmp_path), "f1")
    assert list(scores.new()) == []
    line = '{"kind": "evaluation", "split": "%s", "step": 1, "values": {"f1": %s}}\n'
    path = tmp_path / "metrics.jsonl"
    path.write_text(line % ("validation", "0.5") + line % ("test", "0.9") + line % ("validation", "null"))
    assert list(scores.new()) == [(1, 0.5)]
    with path.open("a") as stream:
        stream.write((line % ("validation", "0.25"))[:-1])
        stream.flush()
        assert list(scores.new()) == []
        stream.write("\n")
    assert list(scores.new()) == [(3, 0.25)]
    write_text(path, line % ("validation", "0.5"))  # A run that is resumed drops what it does again.
    assert list(scores.new()) == []
    with path.open("a") as stream:
        stream.write(line % ("validation", "0.5") * 3)
    assert list(scores.new()) == [(4, 0.5)]


def test_trial_that_waited_when_the_sweep_was_killed_goes_to_nobody() -> None:
    import optuna

    assert main([*SEARCH, "sweep.num_trials=1"]) == 0
    storage = optuna.storages.RDBStorage(f"sqlite:///s/{trials.DATABASE}")
    optuna.load_study(study_name=trials.STUDY, storage=storage).enqueue_trial({"seed": 13})
    storage.engine.dispose()
    assert main([*SEARCH, "sweep.num_trials=3", "sweep.resume=true"]) == 0
    assert "13" not in seeds()
    assert [trial.state.name for trial in study()] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.parametrize(
    ("words", "metric", "direction"),
    [
        (["task=dialogue"], "perplexity", "minimize"),
        (["task=ner"], "entity_f1", "maximize"),
        (["task=ner", "sweep.metric=loss"], "loss", "minimize"),
        (["task=ner", "sweep.direction=minimize"], "entity_f1", "minimize"),
        (
            ["task=ner", "evaluation.metric=entity_recall", "evaluation.greater_is_better=false"],
            "entity_recall",
            "minimize",
        ),
    ],
)
def test_direction_is_known_from_the_metric(words: list[str], metric: str, direction: str) -> None:
    plan = plan_sweep([*words, "seed=1,2", "sweep=optuna"])
    assert trials.objective(plan) == {"metric": metric, "direction": direction}


def test_unknown_metric_is_refused() -> None:
    plan = plan_sweep(["task=ner", "seed=1,2", "sweep=optuna", "sweep.metric=f2"])
    with pytest.raises(ConfigError, match="there is no metric 'f2'") as caught:
        trials.objective(plan)
    assert caught.value.problems[0].key == "sweep.metric"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.metric=loss"], "sweep.metric was 'f1' in this sweep and is now 'loss'"),
        (["sweep=grid", "seed=1,2"], "sweep.name was 'optuna' in this sweep and is now 'grid'"),
        (
            ["seed=interval(0,9)"],
            "were whole numbers from 0 to 12 in this sweep and are now whole numbers from 0 to 9",
        ),
    ],
)
def test_other_search_is_refused_on_resume(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "check_metric", lambda *_: None)
    assert main([*SEARCH, "sweep.num_trials=1"]) == 0
    own = [word for word in SEARCH if not (word.startswith("seed=") and any(w.startswith("seed=") for w in words))]
    assert main([*own, *words, "sweep.resume=true"]) == 2
    assert message in capsys.readouterr().err

"""Runs of the task `classify` by the real command: numbers, rejection, tuned thresholds, saved and read again."""

from __future__ import annotations

import csv
import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

Chainft = Callable[..., "subprocess.CompletedProcess[str]"]
PLACES = ("oslo", "paris", "rome", "lima")
THINGS = ("company", "city", "person", "house", "river", "report")


def write(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(path)


@pytest.fixture
def fast(tiny_encoder: Path) -> list[str]:
    settings = ["train.batch_size=8", "optimizer.lr=0.005", "train.num_train_epochs=8", "report.enabled=true"]
    return ["task=classify", "data=csv", f"model={tiny_encoder}", "run=run", *settings]


def succeed(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run" / "all_results.json").read_text(encoding="utf-8"))
    return found


def test_numbers_of_pairs_are_learned_saved_and_given_in_their_unit(
    chainft: Chainft, fast: list[str], tmp_path: Path
) -> None:
    ratings = {"great": 1100, "good": 1100, "old": 1050, "near": 1050, "bad": 1000, "awful": 1000}
    rows = [
        (f"the {one}", f"a {word} {two}", rating)
        for one, two in zip(THINGS, (*THINGS[:3], *THINGS[:3]), strict=True)
        for word, rating in ratings.items()
    ]
    files = [
        f"data.{split}={write(tmp_path / f'{split}.csv', ('text', 'text_pair', 'rating'), rows)}"
        for split in ("train", "validation", "test")
    ]
    succeed(chainft("train", *fast, "train.num_train_epochs=16", "task.regression=true", *files))
    found = results(tmp_path)
    after = found["test"]["after"]["values"]
    assert after["pearson"] > 0.8 > found["test"]["before"]["values"]["pearson"]
    assert after["mean_squared_error"] < 0.5 * found["baselines"]["mean"]["mean_squared_error"]
    assert found["baselines"].keys() == {"mean", "bag_of_words", "word_overlap"}
    pair = json.dumps({"text": "the city", "text_pair": "a great city"})
    (tmp_path / "in.jsonl").write_text(pair + "\n", encoding="utf-8")
    (line,) = succeed(chainft("predict", "run", "--file", "in.jsonl")).stdout.splitlines()
    assert json.loads(line)["score"] == pytest.approx(1100, abs=40)
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text(encoding="utf-8"))
    assert (config["problem_type"], config["target_mean"]) == ("regression", 1050.0)
    again = succeed(chainft("evaluate", "run", "--json"))
    assert json.loads(again.stdout)["values"]["pearson"] == pytest.approx(after["pearson"])
    assert "Predicted by gold score" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_texts_out_of_scope_are_rejected_by_a_threshold_from_validation(
    chainft: Chainft, fast: list[str], tmp_path: Path
) -> None:
    known = [(f"anna visited {place} {end}", place) for place in PLACES for end in ("yesterday", "today", "", "in")]
    foreign = [(f"{word} bought a {thing}", "oos") for word in ("acme", "globex") for thing in THINGS]
    header = ("text", "label")
    files = [
        f"data.train={write(tmp_path / 'train.csv', header, known * 5)}",
        f"data.validation={write(tmp_path / 'validation.csv', header, [*known, *foreign[::2]])}",
        f"data.test={write(tmp_path / 'test.csv', header, [*known, *foreign[1::2]])}",
    ]
    refused = chainft("train", *fast, *files)
    assert refused.returncode == 3 and "'oos' is in validation" in refused.stderr
    longer = [word for word in fast if not word.startswith(("train.num", "optimizer.lr"))]
    longer += ["train.num_train_epochs=16", "optimizer.lr=0.002"]
    succeed(chainft("train", *longer, "task.reject=auto", "task.temperature=auto", *files))
    found = results(tmp_path)
    assert 0 < found["tuned"]["reject"] < 1 and found["tuned"]["temperature"] > 0
    after = found["test"]["after"]["values"]
    assert after["in_scope_accuracy"] > 0.9
    assert found["test"]["before"]["values"]["out_of_scope_recall"] == 0.0
    again = json.loads(succeed(chainft("evaluate", "run", "--json")).stdout)["values"]
    assert again["out_of_scope_recall"] == pytest.approx(after["out_of_scope_recall"])
    for threshold, recall in ((0.000001, 0.0), (0.9999999999999999, 1.0)):
        done = succeed(chainft("evaluate", "run", f"task.reject={threshold}", "task.temperature=5.0", "--json"))
        assert json.loads(done.stdout)["values"]["out_of_scope_recall"] == recall


def test_thresholds_of_labels_are_tuned_and_saved(chainft: Chainft, fast: list[str], tmp_path: Path) -> None:
    rows = [(f"{one} near {two}", f"{one};{two}") for one in PLACES for two in PLACES if one != two]
    files = [
        f"data.{split}={write(tmp_path / f'{split}.csv', ('text', 'labels'), rows)}"
        for split in ("train", "validation")
    ]
    words = ["task.multi_label=true", "task.threshold=auto", "data.label_separator=;", "evaluation.baselines=false"]
    succeed(chainft("train", *fast, *words, *files))
    thresholds = results(tmp_path)["tuned"]["threshold"]
    assert thresholds.keys() == set(PLACES) and all(0 < one < 1 for one in thresholds.values())
    state = json.loads((tmp_path / "run" / "model" / "chainft.json").read_text(encoding="utf-8"))
    assert state["task"]["threshold"] == thresholds

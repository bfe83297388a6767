"""`--precision int8` in the commands that predict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chainft.cli.main import main
from chainft.config.compose import compose
from chainft.infer import precision
from chainft.stages.int8_model import Gain
from chainft.train.session import run_training
from tests.clean_process import clean_process


@pytest.fixture(scope="module")
def run(tiny_encoder: Path, ner_files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that learned the tiny data."""
    folder = tmp_path_factory.mktemp("int8") / "run"
    settings = ["task=ner", f"model={tiny_encoder}", "optimizer.lr=0.01", "train.batch_size=8", f"run={folder}"]
    with clean_process():
        run_training(compose([*ner_files, *settings, "train.num_train_epochs=8", "report.enabled=false"]))
        yield folder


def answers(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_predictions_are_the_same_but_for_their_scores(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.txt"
    names, places = ("anna", "ben", "clara", "david", "emil"), ("oslo", "paris", "rome", "lima", "quito")
    file.write_text("".join(f"{name} visited {place} .\n" for name in names for place in places), encoding="utf-8")
    assert main(["predict", str(run), "--file", str(file)]) == 0
    full, told = capsys.readouterr()
    assert "int8" not in told
    assert main(["predict", str(run), "--file", str(file), "--precision", "int8"]) == 0
    eight, told = capsys.readouterr()
    assert "int8" in told and "of 12 linear layers, 32 to 64" in told.replace("\n", " ")
    pairs = list(zip(answers(full), answers(eight), strict=True))
    scores = [[one["score"] for one in answer["entities"]] for pair in pairs for answer in pair]
    assert scores[::2] != scores[1::2]
    same = sum(one["tags"] == other["tags"] for one, other in pairs)
    assert same >= 24, [pair for pair in pairs if pair[0]["tags"] != pair[1]["tags"]]
    assert any(one["entities"] for one, _ in pairs)


def test_evaluation_says_in_which_precision_it_scored(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for name in ("full", "int8"):
        assert main(["evaluate", str(run), "--precision", name, "--json"]) == 0
        (found[name],) = answers(capsys.readouterr().out)
        assert found[name]["precision"] == name
    full, eight = (found[name]["values"] for name in ("full", "int8"))
    assert eight["loss"] != full["loss"]
    assert eight["loss"] == pytest.approx(full["loss"], abs=0.05)
    assert eight["entity_f1"] == pytest.approx(full["entity_f1"], abs=0.1)


def test_an_unknown_precision_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run), "anna", "--precision", "int4"]) == 2
    assert "invalid choice: 'int4'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("speedup", "begins"), [(2.0, "note: int8: "), (0.5, "warning: --precision int8 brings nothing but")]
)
def test_it_is_told_whether_8_bits_are_faster(
    speedup: float, begins: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "to_int8", lambda _: Gain(36, 384, 1536, speedup))
    precision.set_precision(None, "int8")  # type: ignore[arg-type]
    out, told = capsys.readouterr()
    assert out == ""
    assert told.startswith(begins)
    assert "36 linear layers, 384 to 1536" in told

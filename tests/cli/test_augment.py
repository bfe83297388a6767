"""`chainft augment` writes a data set that trains, with provenance, and with nothing of what is held out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chainft.cli.main import main

Chainft = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two names and two places; the test sentence is what one exchange of names would make."""
    monkeypatch.chdir(tmp_path)
    rows = {
        "train": ["Ada B-PER\nlikes O\nOslo B-LOC\n", "Ben B-PER\nsees O\nRome B-LOC\n"],
        "validation": ["Ben B-PER\nlikes O\nRome B-LOC\n"],
        "test": ["Ben B-PER\nlikes O\nOslo B-LOC\n"],
    }
    for split, sentences in rows.items():
        (tmp_path / f"{split}.conll").write_text("\n".join(sentences), encoding="utf-8")
    return ["task=ner", "data=conll", *(f"data.{split}={split}.conll" for split in rows)]


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_new_rows_say_where_they_come_from_and_none_equals_what_is_held_out(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["augment", *files, "augment=mix", "augment.share=1", "augment.num_copies=4", "-o", "new"]) == 0
    train = rows("new/train.jsonl")
    assert [" ".join(row["tokens"]) for row in train] == ["Ada likes Oslo", "Ben sees Rome", "Ada sees Oslo"]
    assert train[0]["provenance"] == {
        "method": "original",
        "source": {"file": "train.conll", "line": 1, "unit": "line"},
    }
    assert train[2]["provenance"]["method"] == "mix"
    assert train[2]["provenance"]["source"]["line"] == 5
    assert train[2]["tags"] == ["B-PER", "O", "B-LOC"]
    facts = json.loads(Path("new/augmentation.json").read_text(encoding="utf-8"))
    assert facts["examples"] == {"original": 2, "new": 1, "held_out": 4, "duplicate": 3}
    assert facts["augmentation"]["share"] == 1.0
    printed = capsys.readouterr()
    assert "1 new examples from 2" in printed.out and "4 that read like validation or test examples" in printed.out
    assert "chainft train task=ner data=jsonl data.train=new/train.jsonl" in printed.err
    assert len(rows("new/validation.jsonl")) == len(rows("new/test.jsonl")) == 1


def test_only_new_rows_can_be_written(files: list[str]) -> None:
    assert main(["augment", *files, "augment=mix", "augment.share=1", "-o", "new", "--only-new"]) == 0
    assert {row["provenance"]["method"] for row in rows("new/train.jsonl")} == {"mix"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no augmentation is chosen"),
        (["augment=mxi"], "did you mean 'mix'"),
        (["augment=mix", "augment.shar=1"], "share"),
        (["augment=mix", "augment.share=2"], "(0, 1]"),
        (["augment=mix", "augment.num_copies=0"], "augment.num_copies"),
        (["augment=mix", "augment=mask"], "given twice"),
        (["augment=mask"], "augment.model"),
        (["augment=mix", "-o", "train.conll"], "is a file"),
        (["augment=mix", "data.train=absent.conll"], "absent.conll"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_told(
    files: list[str], words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replaced = {word.split("=")[0] for word in words if word.startswith("data.")}
    kept = [word for word in files if word.split("=")[0] not in replaced]
    output = [] if "-o" in words else ["-o", "new"]
    assert main(["augment", *kept, *words, *output]) in (2, 3)
    assert told in capsys.readouterr().err
    assert not Path("new").exists()


def test_without_anything_new_nothing_is_written(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("train.conll").write_text("Ada B-PER\nsleeps O\n", encoding="utf-8")
    words = [word for word in files if not word.startswith(("data.validation", "data.test"))]
    assert main(["augment", *words, "data.validation_fraction=0", "augment=mix", "-o", "new"]) == 3
    assert "made nothing new of 1 training examples" in capsys.readouterr().err
    assert not Path("new").exists()


def test_the_data_set_trains(chainft: Chainft, tiny_encoder: Path, ner_files: list[str], tmp_path: Path) -> None:
    made = chainft("augment", "task=ner", *ner_files, "augment=mix", "augment.num_copies=2", "-o", "new")
    assert made.returncode == 0, made.stderr
    command = made.stderr.strip().splitlines()[-1].split()[1:]
    done = chainft(*command, f"model={tiny_encoder}", "train.max_steps=2", "run=run", "report.enabled=false")
    assert done.returncode == 0, done.stderr

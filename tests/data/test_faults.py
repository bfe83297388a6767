"""Bad data through the whole way, as a user meets it: exit code, message, place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chainft.data.load import Splits, load_splits
from chainft.data.sources.csv import CsvConfig
from chainft.data.sources.jsonl import JsonlConfig
from chainft.data.store import open_store
from chainft.errors import DataError

Load = Callable[..., Splits]


@pytest.fixture
def load(tmp_path: Path, word_task: Any) -> Load:
    """Loads a CSV file with this content as training data."""

    def load(content: str | bytes, **settings: Any) -> Splits:
        path = tmp_path / "train.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        options = {"validation_fraction": 0.0, **settings}
        return load_splits(CsvConfig(name="csv", train=str(path), **options), word_task())

    return load


def failure(load: Load, content: str | bytes, **settings: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        load(content, **settings)
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize("content", ["", "\n\n", "text,label\n", "\ufeff", "text,label\n\n\n"])
def test_no_rows_are_an_error(load: Load, content: str) -> None:
    """fault 15"""
    assert "has no examples" in failure(load, content).render()


def test_nothing_left_after_leaving_out_is_an_error(load: Load) -> None:
    """fault 15: zero training examples after filtering."""
    error = failure(load, "text,label\na,forbidden\nb,forbidden\n", on_error="skip", max_bad_fraction=1.0)
    assert "no training examples are left" in error.render()


def test_one_example_is_enough_to_load(load: Load) -> None:
    """fault 15"""
    found = load("text,label\na,x\n", validation_fraction=0.5, test_fraction=0.4)
    assert {split: len(rows) for split, rows in found.examples.items()} == {"train": 1}


@pytest.mark.parametrize("number", [2, 3, 5])
def test_a_cut_of_few_examples_is_not_empty(load: Load, number: int) -> None:
    """fault 15: eval = 0 rows."""
    rows = "".join(f"text {index},x\n" for index in range(number))
    found = load(f"text,label\n{rows}", validation_fraction=0.1)
    assert {split: len(rows) for split, rows in found.examples.items()} == {"train": number - 1, "validation": 1}


def test_rows_of_every_kind_of_damage_are_told_at_once(load: Load) -> None:
    """fault 9"""
    error = failure(load, b"text,label\nok,x\nragged\ncaf\xe9,x\nnul\0,x\nok,forbidden\nok,x\n")
    assert [problem.slug for problem in error.problems] == ["ragged-row", "wrong-encoding", "nul-byte", "forbidden"]
    assert [str(problem.where).split("train.csv:")[1][0] for problem in error.problems] == ["3", "4", "5", "6"]


def test_rows_with_several_problems_count_once(word_task: Any, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """fault 9"""
    wrong = "text,label\n" + "a,x\n" * 9 + "b,forbidden\n"
    assert len(load(wrong, on_error="skip", max_bad_fraction=0.1).examples["train"]) == 9
    assert "1 of 10 rows" in failure(load, wrong, on_error="skip", max_bad_fraction=0.09).render()


def test_files_that_cannot_be_read_are_told_together(tmp_path: Path, word_task: Any) -> None:
    """fault 18: a folder; and a missing file beside it."""
    config = CsvConfig(name="csv", train=str(tmp_path), test=str(tmp_path / "missing.csv"))
    with pytest.raises(DataError) as caught:
        load_splits(config, word_task())
    assert len(caught.value.problems) == 2
    assert {problem.key for problem in caught.value.problems} == {"data.train", "data.test"}


def test_an_edit_that_keeps_size_and_time_is_noticed(load: Load, tmp_path: Path, word_task: Any) -> None:
    """fault 16: neither the fingerprint nor the tokenised store goes by the file's time."""
    path = tmp_path / "train.csv"
    before = load("text,label\none two,x\n")
    stamp = path.stat()
    store = open_store(before.examples["train"], word_task(), cache_dir=tmp_path, split="train")
    path.write_text("text,label\none twx,x\n", encoding="utf-8")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = load("text,label\none twx,x\n")
    assert path.stat().st_size == stamp.st_size
    assert after.fingerprint != before.fingerprint
    assert open_store(after.examples["train"], word_task(), cache_dir=tmp_path, split="train").key != store.key


def test_optional_keys_may_come_late(tmp_path: Path, word_task: Any) -> None:
    """A column that the first row lacks is read from the rows that have it; a row without a required one is told."""
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a", "label": "x"}\n{"label": "y", "sentence": "b"}\n', encoding="utf-8")
    config = JsonlConfig(name="jsonl", train=str(path), validation_fraction=0.0)
    assert [row.values["text"] for row in load_splits(config, word_task()).examples["train"]] == ["a", "b"]
    path.write_text('{"text": "a", "label": "x"}\n{"txt": "b", "label": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="'text' is missing") as caught:
        load_splits(config, word_task())
    assert caught.value.problems[0].where == f"{path}:2"


@pytest.mark.parametrize("columns", [{"text": 1, "label": 0}, {"text": "-1", "label": "kind"}])
def test_columns_may_be_named_by_number(load: Load, columns: Any) -> None:
    assert load("kind,body\nx,hello\n", columns=columns).examples["train"][0].values == {"text": "hello", "label": "x"}


def test_a_number_beyond_the_columns_is_told(load: Load) -> None:
    text = failure(load, "kind,body\nx,a\n", columns={"text": 7}).render()
    assert "no column '7'; there are: kind, body" in text
    assert "help: set data.columns.text to a name, or a number from 0 on" in text


def test_values_inside_of_objects_have_dotted_names(tmp_path: Path, word_task: Any) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"body": {"text": "a", "n": 1}, "meta": {"label": true}}\n', encoding="utf-8")
    columns: dict[str, str | int] = {"text": "body.text", "label": "meta.label"}
    config = JsonlConfig(name="jsonl", train=str(path), columns=columns, validation_fraction=0.0)
    assert load_splits(config, word_task()).examples["train"][0].values == {"text": "a", "label": "true"}
    wrong = JsonlConfig(name="jsonl", train=str(path), columns=columns | {"text": "body.txt"})
    with pytest.raises(DataError, match=r"no column 'body\.txt'") as caught:
        load_splits(wrong, word_task())
    assert "did you mean 'body.text'" in caught.value.render()


def test_a_small_sample_keeps_every_class(load: Load) -> None:
    rows = "".join(f"text {index},{'xyz'[0 if index < 40 else 1 if index < 49 else 2]}\n" for index in range(50))
    found = load(f"text,label\n{rows}", max_train_samples=6).examples["train"]
    assert len(found) == 6
    assert {row.values["label"] for row in found} == {"x", "y", "z"}
    assert len(load(f"text,label\n{rows}", max_train_samples=2).examples["train"]) == 2


def test_splits_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    """fault 32"""
    path = tmp_path / "train.csv"
    rows = "".join(f"text {index},{'abcde'[index % 5]}\n" for index in range(100))
    path.write_text(f"text,label\n{rows}", encoding="utf-8")
    code = (
        "from chainft.config.compose import compose; from chainft.data.load import load_splits; "
        "from chainft import registry; "
        f"config = compose(['task=classify', 'data.train={path}', 'data.max_train_samples=50']).config; "
        "task = registry.find('task', 'classify', key='')(config.task); "
        "print(load_splits(config.data, task).fingerprint)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(found) == 1

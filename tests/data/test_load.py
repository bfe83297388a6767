"""Splits: columns found, rows checked, cuts fair and repeatable."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.data.load import _shares, load_splits
from chainft.data.sources.csv import PLUGIN as CSV
from chainft.data.sources.jsonl import PLUGIN as JSONL
from chainft.errors import ChainftError, ConfigError, DataError

Rows = Sequence[Any]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes rows as JSON lines; a text row is written as it is."""

    def write(rows: Rows, name: str = "train.jsonl") -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(tmp_path / name)

    return write


def rows(number: int, labels: str = "xxxy") -> list[dict[str, str]]:
    return [{"text": f"text {index}", "label": labels[index % len(labels)]} for index in range(number)]


def config(**settings: Any) -> Any:
    return JSONL.config_class(name="jsonl", **{"validation_fraction": 0.0, **settings})


def failure(task: Any, kind: type[ChainftError], **settings: Any) -> str:
    with pytest.raises(kind) as caught:
        load_splits(config(**settings), task)
    return caught.value.render()


def test_columns_are_found_by_name_alias_and_setting(word_task: Any, write: Any) -> None:
    for row, columns in (
        ({"text": "a", "label": "x"}, {}),
        ({"sentence": "a", "class": "x"}, {}),
        ({"message": "a", "kind": "x"}, {"text": "message", "label": "kind"}),
    ):
        splits = load_splits(config(train=write([row] * 2), columns=columns), word_task())
        assert splits.examples["train"][0].values == {"text": "a", "label": "x"}
        assert splits.examples["train"][1].where().endswith("train.jsonl:2")


def test_a_missing_column_names_those_there_are(word_task: Any, write: Any) -> None:
    path = write([{"message": "a", "label": "x"}])
    text = failure(word_task(), DataError, train=path)
    assert "no column holds 'text'" in text
    assert "message, label" in text
    text = failure(word_task(), DataError, train=path, columns={"text": "mesage"})
    assert "did you mean 'message'" in text
    text = failure(word_task(), ConfigError, train=path, columns={"txt": "message"})
    assert "did you mean 'text'" in text


def test_lists_where_one_label_is_wanted_name_the_setting(word_task: Any, write: Any) -> None:
    text = failure(word_task(), DataError, train=write([{"text": "a", "labels": ["x", "y"]}]))
    assert "no column holds 'label'" in text
    assert "if 'labels' holds any number of labels a text, set task.multi_label=true" in text


def test_values_of_a_wrong_type_are_placed(word_task: Any, write: Any) -> None:
    """fault 9"""
    text = failure(word_task(), DataError, train=write([*rows(2), {"text": 7, "label": "x"}, {"text": "a"}]))
    assert "train.jsonl:3" in text
    assert "expected text, got 7" in text
    assert "train.jsonl:4" in text
    assert "help: mend the value, or name another column by data.columns.text=COLUMN" in text


def test_what_the_task_finds_wrong_stops_the_run(word_task: Any, write: Any) -> None:
    text = failure(word_task(), DataError, train=write([{"text": "a", "label": "forbidden"}]))
    assert "is forbidden" in text


def test_many_bad_rows_are_listed_up_to_a_limit_and_counted(word_task: Any, write: Any) -> None:
    text = failure(word_task(), DataError, train=write([*rows(3), *["{broken"] * 30]))
    assert text.count("train.jsonl:") == 20
    assert "10 more rows" in text


def test_skipped_rows_are_kept_apart_up_to_their_share(word_task: Any, write: Any) -> None:
    """fault 9"""
    path = write([*rows(9), "{broken"])
    splits = load_splits(config(train=path, on_error="skip", max_bad_fraction=0.1), word_task())
    assert len(splits.examples["train"]) == 9
    assert len(splits.rejected) == 1
    assert str(splits.rejected[0].where).startswith(f"{path}:10")
    text = failure(word_task(), DataError, train=path, on_error="skip", max_bad_fraction=0.09)
    assert "1 of 10 rows" in text


def test_an_empty_file_is_named(word_task: Any, write: Any) -> None:
    """fault 15"""
    assert "empty.jsonl" in failure(word_task(), DataError, train=write([], "empty.jsonl"))
    text = failure(word_task(), DataError, train=write(rows(4)), test=write([], "empty.jsonl"))
    assert "empty.jsonl" in text


def test_without_training_data_the_key_is_named(word_task: Any) -> None:
    assert "data.train" in failure(word_task(), ConfigError)


def test_several_files_are_read_in_order(word_task: Any, write: Any) -> None:
    paths = (write(rows(2), "one.jsonl"), write(rows(3), "two.jsonl"))
    found = load_splits(config(train=paths), word_task()).examples["train"]
    assert [Path(example.origin.file).name for example in found] == ["one.jsonl"] * 2 + ["two.jsonl"] * 3


def test_a_cut_is_a_stratified_partition_that_repeats(word_task: Any, write: Any) -> None:
    path = write(rows(80))
    settings: dict[str, Any] = {"train": path, "validation_fraction": 0.2, "test_fraction": 0.1}
    one, other = (load_splits(config(**settings), word_task()) for _ in range(2))
    assert one.fingerprint == other.fingerprint
    texts = {split: [row.values["text"] for row in found] for split, found in one.examples.items()}
    assert {split: len(found) for split, found in texts.items()} == {"train": 56, "validation": 16, "test": 8}
    assert sorted(text for found in texts.values() for text in found) == sorted(row["text"] for row in rows(80))
    for split, count in {"train": 14, "validation": 4, "test": 2}.items():
        assert Counter(row.values["label"] for row in one.examples[split])["y"] == count  # type: ignore[index]
    moved = load_splits(config(**settings, split_seed=7), word_task())
    assert moved.fingerprint != one.fingerprint


def test_a_cut_never_empties_train_and_keeps_single_examples_there(word_task: Any, write: Any) -> None:
    """fault 15"""
    data = [*rows(9, "x"), {"text": "only", "label": "rare"}]
    found = load_splits(config(train=write(data), validation_fraction=0.9), word_task())
    assert "only" in [row.values["text"] for row in found.examples["train"]]
    alone = load_splits(config(train=write(rows(1)), validation_fraction=0.5), word_task())
    assert set(alone.examples) == {"train"}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.floats(0.01, 0.6))
def test_every_class_keeps_its_share_within_one(sizes: list[int], share: float) -> None:
    count = min(round(share * sum(sizes)), sum(sizes) - 1)
    most = [size - 1 if len(sizes) > 1 else size for size in sizes]
    taken = _shares(sizes, count, most)
    assert sum(taken) == min(count, sum(most))
    assert all(0 <= number <= size for number, size in zip(taken, sizes, strict=True))
    if all(size > count * size / sum(sizes) + 1 for size in sizes):
        assert all(abs(n - count * size / sum(sizes)) <= 1 for n, size in zip(taken, sizes, strict=True))


def test_fewer_examples_are_drawn_in_order(word_task: Any, write: Any) -> None:
    path = write(rows(50))
    found = load_splits(config(train=path, test=path, max_train_samples=7, max_test_samples=60), word_task())
    numbers = [int(row.values["text"].split()[1]) for row in found.examples["train"]]
    assert len(numbers) == 7
    assert numbers == sorted(numbers)
    assert numbers != list(range(7))
    assert len(found.examples["test"]) == 50


def test_the_fingerprint_follows_content_not_files(word_task: Any, write: Any) -> None:
    """fault 16, fault 17"""
    one = load_splits(config(train=write(rows(5), "a.jsonl")), word_task())
    same = load_splits(config(train=write(rows(5), "b.jsonl")), word_task())
    changed = load_splits(config(train=write([*rows(4), {"text": "text 5", "label": "x"}], "a.jsonl")), word_task())
    assert one.fingerprint == same.fingerprint != changed.fingerprint


def test_a_separator_without_multi_label_is_refused(word_task: Any, write: Any) -> None:
    assert "no effect" in failure(word_task(), ConfigError, train=write(rows(2)), label_separator="|")


def test_csv_files_name_their_lines(word_task: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('text,label\n"two\nlines",x\nplain,y\n', encoding="utf-8")
    settings = CSV.config_class(name="csv", train=str(tmp_path / "t.csv"), validation_fraction=0.0)
    found = load_splits(settings, word_task()).examples["train"]
    assert [row.where().rpartition(":")[2] for row in found] == ["2", "4"]

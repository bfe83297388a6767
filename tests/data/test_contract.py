"""Findings over whole splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chainft.data.card import data_card
from chainft.data.contract import check_contract
from chainft.data.example import Example, Finding
from chainft.data.load import Splits
from chainft.data.store import open_store
from chainft.errors import Problem

Pairs = Callable[..., list[Example]]


def clean(examples: Pairs, number: int = 6, file: str = "train.csv") -> list[Example]:
    pairs = [(f"{file} text number {index} {label}", label) for index in range(number) for label in "xy"]
    return examples(*pairs, file=file)


def found(task: Any, train: list[Example], **others: list[Example]) -> dict[str, Finding]:
    splits: Any = {"train": train, **others}
    return {finding.slug: finding for finding in check_contract(Splits(splits, "hash"), task)}


def test_sound_data_have_no_findings(word_task: Any, examples: Pairs) -> None:
    assert found(word_task(), clean(examples), test=clean(examples, file="test.csv")) == {}


def test_a_leak_is_counted_and_placed(word_task: Any, examples: Pairs) -> None:
    """fault 16"""
    train = [*clean(examples), *examples(("The Same  words", "x"), file="more.csv")]
    test = [*clean(examples, file="test.csv"), *examples(("the same words", "y"), file="other.csv")]
    finding = found(word_task(), train, test=test)["leak"]
    assert finding.severity == "warning"
    assert finding.where == "other.csv:2"
    assert "more.csv:2" in finding.message
    assert finding.count == 1


def test_duplicates_and_conflicts_are_told_apart(word_task: Any, examples: Pairs) -> None:
    """fault 16"""
    rows = [*clean(examples), *examples(("one", "x"), ("one", "x"), ("two", "x"), ("two", "y"), file="more.csv")]
    findings = found(word_task(), rows)
    assert findings["duplicate"].where == "more.csv:3"
    assert findings["conflicting-labels"].where == "more.csv:4"
    assert "more.csv:5" in findings["conflicting-labels"].message


def test_labels_that_differ_in_case_or_blanks_are_named_with_counts(word_task: Any, examples: Pairs) -> None:
    """fault 10"""
    rows = [*clean(examples), *examples(*((f"extra {index}", " X") for index in range(5)))]
    finding = found(word_task(), rows)["label-variants"]
    assert "' X' (5 times)" in finding.message
    assert "'x' (6 times)" in finding.message
    assert finding.help == "write them all as 'x'"


def test_rare_and_overwhelming_labels_are_named(word_task: Any, examples: Pairs) -> None:
    """fault 15"""
    rows = examples(*((f"text {index}", "x" if index else "y") for index in range(50)))
    findings = found(word_task(), rows)
    assert "y (1)" in findings["rare-label"].message
    assert "98%" in findings["majority-label"].message


def test_one_class_is_an_error(word_task: Any, examples: Pairs) -> None:
    """fault 15"""
    finding = found(word_task(), examples(*((f"text {index}", "x") for index in range(9))))["one-label"]
    assert finding.severity == "error"


def test_a_label_that_test_lacks_is_mentioned(word_task: Any, examples: Pairs) -> None:
    finding = found(word_task(), clean(examples), test=examples(("a text", "x"), file="t"))["label-not-in-split"]
    assert "test has no example of y" in finding.message


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("caf\ufffd", "replacement-character"),
        ("cafÃ©", "mojibake"),
        ("itâ€™s", "mojibake"),
        ("bell\x07", "control-character"),
        ("zero\u200bwidth", "zero-width"),
        ("  ", "empty-example"),
    ],
)
def test_odd_texts_are_placed(word_task: Any, examples: Pairs, text: str, slug: str) -> None:
    rows = [*clean(examples), *examples((text, "x"), file="odd.csv")]
    assert found(word_task(), rows)[slug].where == "odd.csv:2"


def test_proper_accents_are_not_odd(word_task: Any, examples: Pairs) -> None:
    rows = [*clean(examples), *examples(("São Tomé, Ångström, naïve — “quoted”", "x"))]
    assert found(word_task(), rows) == {}


def test_over_long_examples_are_counted(word_task: Any, examples: Pairs, tmp_path: Path) -> None:
    """fault 13"""
    task, rows = word_task(), [*clean(examples, 1), *examples(("a b c d e f g", "x"), file="long.csv")]
    splits: Any = {"train": rows}
    stores: Any = {"train": open_store(rows, task, cache_dir=tmp_path, split="train")}
    findings = check_contract(Splits(splits, "hash"), task, stores=stores)
    long = next(one for one in findings if one.slug == "over-long")
    assert "up to 3" in long.message
    card = data_card(Splits(splits, "hash"), task, findings, stores)["splits"]["train"]
    assert card["labels"] == {"x": 2, "y": 1}
    assert sum(card["lengths"]["counts"]) == len(rows) < len(stores["train"])
    assert card["lengths"]["edges"][-1] > task.num_tokens(rows[-1]) > max(stores["train"].lengths)


def test_rows_left_out_are_told(word_task: Any, examples: Pairs) -> None:
    splits: Any = {"train": clean(examples)}
    rejected = (Problem("bad", "no comma", "train.csv:9"),)
    (finding,) = check_contract(Splits(splits, "hash", rejected), word_task())
    assert finding.where == "train.csv:9"

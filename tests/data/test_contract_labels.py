"""Findings about labels and words, with the line of the word; for any task by its fields."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from chainft.data.contract import check_contract
from chainft.data.example import Example, Finding, Origin
from chainft.data.load import Splits
from chainft.tasks.base import Field

TAGS: Any = SimpleNamespace(
    tasks={},
    has_own_data=True,
    fields=(Field("tokens", "texts"), Field("tags", "tags", gold=True)),
    contract=lambda splits: iter(()),
)
LABELS: Any = SimpleNamespace(
    tasks={},
    has_own_data=True,
    fields=(Field("text", "text"), Field("labels", "labels", gold=True)),
    contract=lambda splits: iter(()),
)
LABEL: Any = SimpleNamespace(
    tasks={},
    has_own_data=True,
    fields=(Field("text", "text"), Field("label", "label", gold=True)),
    contract=lambda splits: iter(()),
)


def tagged(*pairs: tuple[str, str], line: int, file: str = "train.conll") -> Example:
    words, tags = [word for word, _ in pairs], [tag for _, tag in pairs]
    return Example({"tokens": words, "tags": tags}, Origin(file, line), tuple(range(line, line + len(pairs))))


def found(task: Any, rows: list[Example], **others: list[Example]) -> dict[str, Finding]:
    splits: Any = {"train": rows, **others}
    return {finding.slug: finding for finding in check_contract(Splits(splits, "hash"), task)}


def labelled(*labels: Any, name: str = "label") -> list[Example]:
    return [Example({"text": f"text {n}", name: one}, Origin("t.csv", n + 2)) for n, one in enumerate(labels)]


def plain(number: int) -> list[Example]:
    return [tagged((f"a{n}", "O"), (f"b{n}", "B-PER"), line=100 + 10 * n) for n in range(number)]


def test_a_slip_of_the_pen_is_placed_at_its_word() -> None:
    """fault 10: line, suggestion and counts."""
    rows = [*plain(40), tagged(("x", "O"), ("y", "B-PERS"), line=7)]
    finding = found(TAGS, rows)["label-slip"]
    assert finding.where == "train.conll:8"
    assert "'B-PERS' (1 time) looks like 'B-PER' (40 times)" in finding.message
    assert "'B-PER'" in str(finding.help)


@pytest.mark.parametrize("label", ["I-PER", "B-PER2", "b-per"])
def test_names_that_differ_for_a_reason_are_no_slips(label: str) -> None:
    assert "label-slip" not in found(TAGS, [*plain(40), tagged(("y", label), line=7)])


def test_labels_with_blanks_around_are_shown_as_they_are() -> None:
    """fault 10"""
    finding = found(LABEL, labelled(*["good", "bad"] * 10, "fine "))["label-with-blanks"]
    assert "'fine ' (1 time)" in finding.message
    assert finding.where == "t.csv:22"
    assert found(LABEL, labelled(*["good", "bad"] * 10, "fine ")).keys() == {"label-with-blanks", "rare-label"}


def test_variants_between_splits_are_found_at_the_rarer_one() -> None:
    """fault 10"""
    test = [Example({"text": "new", "label": "GOOD"}, Origin("test.csv", 2))]
    finding = found(LABEL, labelled(*["good", "bad"] * 10), test=test)["label-variants"]
    assert finding.where == "test.csv:2"
    assert finding.help == "write them all as 'good'"


def test_rare_labels_begin_with_the_rarest() -> None:
    rows = labelled(*["x"] * 9, "b", "a", "a")
    finding = found(LABEL, rows)["rare-label"]
    assert finding.message.endswith("b (1), a (2)")
    assert finding.where == "t.csv:11"


def test_several_labels_of_a_text_count_each() -> None:
    rows = labelled(*[["x", "y"]] * 9, ["x", "z"], [], name="labels")
    findings = found(LABELS, rows)
    assert "z (1)" in findings["rare-label"].message
    assert "majority-label" not in findings


def test_only_words_of_one_tag_are_no_single_class() -> None:
    """fault 15: what all-O means, the ner task says."""
    assert "one-label" not in found(TAGS, [tagged((f"w{n}", "O"), line=n + 1) for n in range(20)])


def test_odd_words_are_placed_at_their_line() -> None:
    rows = [*plain(20), tagged(("fine", "O"), ("zero\u200bwidth", "B-PER"), line=50)]
    assert found(TAGS, rows)["zero-width"].where == "train.conll:51"
    rows = [*plain(20), tagged(("fine", "O"), ("x" * 200, "B-PER"), line=50)]
    assert found(TAGS, rows)["long-word"].where == "train.conll:51"


def test_a_handful_of_examples_is_called_few() -> None:
    """fault 15"""
    assert "only 1 example" in found(LABEL, labelled("x"))["few-examples"].message


def test_several_right_answers_are_no_conflict() -> None:
    task: Any = SimpleNamespace(
        tasks={},
        has_own_data=True,
        fields=(Field("prompt", "text"), Field("response", "text", gold=True)),
        contract=lambda splits: iter(()),
    )
    rows = [Example({"prompt": f"p{n // 2}", "response": f"r{n}"}, Origin("t", n)) for n in range(20)]
    assert found(task, rows) == {}

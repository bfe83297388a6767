"""Marked texts: right, missed, wrong and spurious are told apart by sign, and any text is shown whole."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.report.marks import LONGEST_TEXT, SIGNS, judge, legend, marked_rows, visible_stretches
from chainft.tasks.base import Mark, Mistake

TEXT = "Ada met Bob in Rome on Monday"
ADA, BOB, ROME, MONDAY = Mark(0, 3, "PER"), Mark(8, 11, "PER"), Mark(15, 19, "LOC"), Mark(23, 29, "MISC")


def mistake(gold: tuple[Mark, ...], predicted: tuple[Mark, ...], text: str = TEXT) -> Mistake:
    return Mistake(1.0, text, "", "", gold, predicted)


def plain(row: str) -> str:
    """The text of a row without signs and labels."""
    marked = row.split('class="marked"', 1)[1].split(">", 1)[1]
    return html.unescape(re.sub(r"<[^>]+>", "", re.sub(r'<span class="(sign|cut)">.*?</span>', "", marked)))


def test_each_status_is_found():
    wrong = Mark(15, 19, "ORG")
    gold, predicted = judge(mistake((ADA, BOB, ROME), (ADA, wrong, MONDAY)))
    assert [one.status for one in gold] == ["right", "missing", "wrong"]
    assert [one.status for one in predicted] == ["right", "wrong", "spurious"]


def test_other_borders_are_wrong_and_touching_is_not_overlap():
    gold, predicted = judge(mistake((Mark(0, 3, "PER"),), (Mark(0, 7, "PER"), Mark(3, 5, "PER"))))
    assert gold[0].status == "wrong"
    assert [one.status for one in predicted] == ["wrong", "spurious"]


def test_signs_tell_statuses_apart_without_colour():
    assert len(set(SIGNS.values())) == 4
    assert all(sign in legend() for sign in SIGNS.values())
    gold, predicted = marked_rows(mistake((ADA, BOB), (ADA, MONDAY)))
    assert "✓ PER" in gold and "− PER" in gold and "+ MISC" in predicted


def test_rows_hold_the_text_unchanged():
    text = "Zoë 🎉 <b> & Bob"
    for row in marked_rows(mistake((Mark(0, 3, "PER"),), (Mark(4, 5, "X"),), text)):
        assert plain(row) == text


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cs")), max_size=60),
    st.lists(st.tuples(st.integers(-5, 70), st.integers(-5, 70)), max_size=6),
)
def test_any_marks_leave_the_text_as_it_is(text, places):
    marks = tuple(Mark(start, end, "X") for start, end in places)
    for row in marked_rows(mistake(marks, marks[::2], text)):
        assert plain(row) == text


def test_overlapping_marks_get_rows_of_their_own():
    nested = (Mark(0, 11, "A"), Mark(8, 11, "B"))
    assert len(marked_rows(mistake(nested, ()))) == 3


def test_long_text_is_cut_to_what_is_around_marks():
    text = "x" * 1000 + "Ada" + "y" * 1000
    stretches = visible_stretches(text, [Mark(1000, 1003, "PER")])
    assert stretches == [(910, 1093)]
    row = marked_rows(mistake((Mark(1000, 1003, "PER"),), (), text))[0]
    assert "Ada" in row and row.count("…") == 2 and len(plain(row)) == 183


@pytest.mark.parametrize("length", [0, 1, LONGEST_TEXT])
def test_text_of_usual_length_is_whole(length):
    assert visible_stretches("x" * length, []) == [(0, length)]

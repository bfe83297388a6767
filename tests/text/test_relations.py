"""Texts with two marked entities."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.errors import DataError
from chainft.text.relations import Entity, Pair, kept_tokens, read_pair


def test_marks_are_taken_out_with_the_blanks_around_them() -> None:
    """As SemEval-2010 Task 8 has them, with and without blanks inside."""
    pair = read_pair({"text": "The common <e1> audits </e1> were about <e2>waste</e2>."}, "x:1")
    assert pair == Pair("The common audits were about waste.", Entity(11, 17), Entity(29, 34))
    assert pair.between == " were about "


def test_the_second_entity_may_stand_first() -> None:
    pair = read_pair({"text": "<e2>Ada</e2> works for <e1>Acme Inc</e1>"}, "x:1")
    assert pair.text[pair.head.start : pair.head.end] == "Acme Inc"
    assert pair.marked("punct") == ("# Ada # works for @ Acme Inc @", (18, 30), (0, 7))


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ({"start": 0, "end": 3, "type": "PER"}, {"start": 14, "end": 18, "type": "ORG_COMPANY"}),
        ([0, 3, "PER"], [14, 18, "ORG_COMPANY"]),
        ("0:3:PER", "14:18:ORG_COMPANY"),
    ],
)
def test_places_come_as_objects_lists_and_text(head: Any, tail: Any) -> None:
    pair = read_pair({"text": "Ada works for Acme.", "head": head, "tail": tail}, "x:1")
    assert pair.marked("typed")[0] == "@ * per * Ada @ works for # ^ org company ^ Acme #."


def test_types_of_marks_stand_beside_the_text() -> None:
    values = {"text": "<e1>Ada</e1> met <e2>Bob</e2>", "head_type": "PER", "tail_type": "PER"}
    assert read_pair(values, "x:1").marked("typed")[0] == "@ * per * Ada @ met # ^ per ^ Bob #"


@pytest.mark.parametrize(
    ("values", "slug"),
    [
        ({"text": "<e1>Ada</e1> met Bob"}, "no-mark"),
        ({"text": "<e1>Ada</e1> met <e1>Bob</e1>"}, "twice-marked"),
        ({"text": "<e1>Ada <e2>and</e1> Bob</e2>"}, "overlap"),
        ({"text": "<e1> </e1> met <e2>Bob</e2>"}, "bad-place"),
        ({"text": "</e1>Ada<e1> met <e2>Bob</e2>"}, "bad-place"),
        ({"text": "Ada met Bob", "head": [0, 3]}, "no-place"),
        ({"text": "Ada met Bob", "head": [0, 3], "tail": [8, 12]}, "bad-place"),
        ({"text": "Ada met Bob", "head": [0, 3], "tail": "Bob"}, "no-place"),
        ({"text": "Ada met Bob", "head": [0, 3], "tail": [2, 6]}, "overlap"),
        ({"text": "Ada met Bob", "head": [0, True], "tail": [8, 11]}, "no-place"),
        ({"text": "<e1>Ada</e1> met <e2>Bob</e2>", "head": [0, 3], "tail": [8, 11]}, "both-marks"),
    ],
)
def test_unsound_pairs_are_refused_at_their_place(values: dict[str, Any], slug: str) -> None:
    with pytest.raises(DataError) as caught:
        read_pair(values, "x:1")
    assert [(one.slug, one.where) for one in caught.value.problems] == [(slug, "x:1")]


@given(st.lists(st.integers(0, 12), min_size=5, max_size=5), st.integers(1, 30))
def test_what_is_kept_holds_both_entities_and_fills_the_room(sizes: list[int], room: int) -> None:
    before, first, between, second, after = sizes[0], sizes[1] + 1, sizes[2], sizes[3] + 1, sizes[4]
    one = (before, before + first)
    other = (one[1] + between, one[1] + between + second)
    total = other[1] + after
    kept = kept_tokens(one, other, total, room)
    if first + second > room:
        assert kept is None
        return
    assert kept is not None
    tokens = [token for start, end in kept for token in range(start, end)]
    assert tokens == sorted(set(tokens)) and set(tokens) <= set(range(total))
    assert {*range(*one), *range(*other)} <= set(tokens)
    assert len(tokens) == min(total, room)

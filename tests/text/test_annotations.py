"""Texts with entities and relations: how they may be written, and every fault with its place."""

from __future__ import annotations

from typing import Any

import pytest

from chainft.data.example import Example, Origin
from chainft.errors import DataError
from chainft.text.annotations import Link, annotated, annotation_problems
from chainft.text.relations import Entity

TEXT = "Ada works for Acme in Paris."
ADA, ACME = {"start": 0, "end": 3, "type": "person"}, {"start": 14, "end": 18, "type": "org"}


def row(entities: Any, relations: Any) -> Example:
    return Example({"text": TEXT, "entities": entities, "relations": relations}, Origin("x.jsonl", 7))


@pytest.mark.parametrize(
    ("entities", "relations"),
    [
        ([ADA, ACME], [{"head": 0, "tail": 1, "type": "works_for"}]),
        ([[0, 3, "person"], [14, 18, "org"]], [[0, 1, "works_for"]]),
        (
            [ADA | {"id": "T1", "text": "Ada"}, ACME | {"id": "T2"}],
            [{"head": "T1", "tail": "T2", "relation": "works_for"}],
        ),
        ([{"start": 0, "end": 3, "label": "person"}, ACME], [{"head": 0, "tail": 1, "label": "works_for"}]),
        ([ADA | {"id": 5}, ACME | {"id": 0}], [[5, 0, "works_for"]]),
    ],
)
def test_all_ways_to_write_say_the_same(entities: Any, relations: Any) -> None:
    found = annotated(row(entities, relations))
    assert found.entities == (Entity(0, 3, "person"), Entity(14, 18, "org"))
    assert found.links == (Link(0, 1, "works_for"),)


@pytest.mark.parametrize(
    ("entities", "relations", "slug", "told"),
    [
        (None, [], "wrong-type", "entities must be a list"),
        ([], {"head": 0}, "wrong-type", "relations must be a list"),
        ([{"start": 0, "end": 3}], [], "no-entity", "entity 0"),
        ([{"start": "0", "end": 3, "type": "x"}], [], "no-entity", "entity 0"),
        ([{"start": True, "end": 3, "type": "x"}], [], "no-entity", "entity 0"),
        ([ADA, [14, 99, "org"]], [], "bad-place", "entity 1, [14, 99)"),
        ([[3, 3, "x"]], [], "bad-place", "[3, 3)"),
        ([[-3, -1, "x"]], [], "bad-place", "28 characters"),
        ([ADA | {"text": "Acme"}], [], "other-text", "is 'Ada' in the text, not 'Acme'"),
        ([[3, 9, "x"]], [], "blank-at-edge", "' works'"),
        ([ADA, [2, 9, "x"]], [], "overlap", "entities 0 [0, 3) 'Ada' and 1 [2, 9) 'a works' overlap"),
        ([ADA, ADA], [], "overlap", "overlap"),
        ([ADA | {"id": "T1"}, ACME], [], "no-id", "entity 1"),
        ([ADA | {"id": "T1"}, ACME | {"id": "T1"}], [], "same-id", "'T1'"),
        ([ADA, ACME], [{"head": 0, "tail": 2, "type": "r"}], "no-such-entity", "entity 2, which is not there"),
        ([ADA, ACME], [{"head": "T1", "tail": 1, "type": "r"}], "no-such-entity", "'T1'"),
        ([ADA | {"id": "T1"}, ACME | {"id": "T2"}], [[0, 1, "r"]], "no-such-entity", "entity 0"),
        ([ADA, ACME], [{"head": 0, "tail": 1}], "no-relation", "relation 0"),
        ([ADA, ACME], [[0, 1, " "]], "no-relation", "relation 0"),
        ([ADA, ACME], [[1, 1, "r"]], "self-relation", "'r' from 'Acme' to 'Acme'"),
        ([ADA, ACME], [[0, 1, "r"], [0, 1, "r"]], "duplicate-relation", "is relation 0 again"),
        ([ADA, ACME], [[0, 1, "No_Relation"]], "negative-relation", "No_Relation"),
        ([ADA, ACME], [[0, 1, "near"], [1, 0, "near"]], "duplicate-relation", "task.symmetric"),
    ],
)
def test_every_fault_is_told_with_its_place(entities: Any, relations: Any, slug: str, told: str) -> None:
    example = row(entities, relations)
    problems = list(annotation_problems(example.values, example.where(), symmetric=["near"]))
    assert [(one.slug, one.where) for one in problems] == [(slug, "x.jsonl:7")]
    assert told in problems[0].message and problems[0].help


def test_several_faults_are_told_at_once_and_a_place_is_offered() -> None:
    example = row([[0, 3], ACME | {"text": "Paris"}, [-1, 2, "x"]], [])
    problems = list(annotation_problems(example.values, example.where()))
    assert [one.slug for one in problems] == ["no-entity", "other-text", "bad-place"]
    assert "[22, 27)" in str(problems[1].help)


def test_two_directions_of_one_relation_are_no_duplicate() -> None:
    assert len(annotated(row([ADA, ACME], [[0, 1, "r"], [1, 0, "r"]])).links) == 2


def test_faulty_examples_are_not_read() -> None:
    with pytest.raises(DataError) as caught:
        annotated(row([[0, 99, "x"]], []))
    assert caught.value.problems[0].slug == "bad-place"

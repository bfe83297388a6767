"""Gold answers: every form that data may have, and what is wrong with each other one, with its remedy."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.data.example import Example, Origin
from chainft.errors import DataError
from chainft.text.answers import Answer, answers_of, find_answers

CONTEXT = "Oslo is old. Anna left Oslo in 1905."


def example(answers: Any, start: Any = None, context: str = CONTEXT) -> Example:
    values = {"question": "Where?", "context": context, "answers": answers}
    return Example(values | ({} if start is None else {"answer_start": start}), Origin("q.jsonl", 4))


def told(answers: Any, start: Any = None) -> tuple[str, str]:
    """Slug and help of the one problem."""
    found = find_answers(example(answers, start))
    (problem,) = found.problems
    assert found.answers == []
    assert problem.where == "q.jsonl:4"
    return problem.slug, f"{problem.message} | {problem.help}"


@pytest.mark.parametrize(
    ("answers", "start"),
    [
        ("Anna", None),
        (["Anna"], None),
        ("Anna", 13),
        ("Anna", "13"),
        (["Anna"], [13]),
        ({"text": ["Anna"], "answer_start": [13]}, None),
        ({"text": "Anna", "answer_start": 13}, None),
        ([{"text": "Anna", "answer_start": 13}], None),
        ([{"text": "Anna"}], None),
        (json.dumps({"text": ["Anna"], "answer_start": [13]}), None),
        ('["Anna"]', None),
    ],
    ids=str,
)
def test_every_form_gives_the_same_answer(answers: Any, start: Any) -> None:
    assert answers_of(example(answers, start)) == (Answer("Anna", 13),)


@pytest.mark.parametrize(
    "answers", ["", [], "[]", {"text": [], "answer_start": []}, '{"text": [], "answer_start": []}']
)
def test_nothing_says_that_there_is_no_answer(answers: Any) -> None:
    assert answers_of(example(answers)) == ()
    assert answers_of(example(answers, "")) == ()


def test_the_most_frequent_answer_is_first() -> None:
    spans = [("Anna left", 13), ("Anna", 13), ("Anna", 13)]
    found = answers_of(example([{"text": text, "answer_start": start} for text, start in spans]))
    assert found == (Answer("Anna", 13), Answer("Anna", 13), Answer("Anna left", 13))


def test_text_that_looks_like_json_and_stands_in_the_context_is_a_text() -> None:
    assert answers_of(example("[1]", context="see [1] there")) == (Answer("[1]", 4),)


def test_wrong_offset_is_told_with_the_nearest_right_one() -> None:
    """fault 14: an answer that is not at answer_start -> place and repair, never repaired by itself."""
    slug, words = told({"text": ["Oslo"], "answer_start": [20]})
    assert slug == "wrong-offset"
    assert "there stands 'ft O'" in words
    assert "it stands at 23 (of 2 places, the nearest)" in words


@pytest.mark.parametrize("start", [-1, -4, 34, 99])
def test_answer_outside_of_the_context_is_told(start: int) -> None:
    """fault 14: out of bounds; a negative place must not count from the end."""
    slug, words = told({"text": ["1905"], "answer_start": [start]})
    assert slug == "outside-context"
    assert "characters 0 to 35" in words and "it stands at 31" in words


def test_text_that_stands_several_times_needs_its_place() -> None:
    slug, words = told("Oslo")
    assert slug == "ambiguous-answer"
    assert "2 times" in words and "0, 23" in words


def test_text_that_is_not_there_is_told_with_one_in_other_case() -> None:
    assert told("Paris")[0] == "answer-not-in-context"
    slug, words = told("anna")
    assert slug == "answer-not-in-context"
    assert "'Anna' at 13" in words


@pytest.mark.parametrize(
    ("answers", "start"),
    [
        (7, None),
        (None, None),
        ({"text": ["Anna"], "answer_start": []}, None),
        ({"texts": ["Anna"]}, None),
        ([7], None),
        ("Anna", 13.5),
        ("Anna", True),
        (["Anna", "1905"], 13),
        ("Anna", "x"),
        ({"text": ["Anna"], "answer_start": [13]}, 13),
    ],
    ids=str,
)
def test_other_forms_are_refused_with_advice(answers: Any, start: Any) -> None:
    slug, words = told(answers, start)
    assert slug == "wrong-type"
    assert "answer_start" in words


@pytest.mark.parametrize("answers", [[""], [" "], {"text": [""], "answer_start": [0]}])
def test_empty_answer_in_a_list_is_refused(answers: Any) -> None:
    assert told(answers)[0] == "empty-answer"


def test_every_wrong_answer_of_a_question_is_told() -> None:
    with pytest.raises(DataError) as caught:
        answers_of(example(["Paris", "Anna", "Oslo"]))
    assert [problem.slug for problem in caught.value.problems] == ["answer-not-in-context", "ambiguous-answer"]


@given(context=st.text("ab 茶é🙂", min_size=1, max_size=20), data=st.data())
def test_text_at_its_place_is_always_taken(context: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    text = context[start:end]
    found = find_answers(example({"text": [text], "answer_start": [start]}, context=context))
    assert found.answers == ([Answer(text, start)] if text.strip() else [])
    assert bool(found.problems) == (not text.strip())

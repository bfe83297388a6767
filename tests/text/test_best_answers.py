"""Stretches of all windows become answers, and the threshold for there being none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.text.best_answers import Raw, Stretch, best_threshold, join, null_score, predicted

CONTEXT = "Oslo and Rome and Oslo"


def window(*places: tuple[int, int]) -> dict[str, np.ndarray]:
    starts, ends = zip(*places, strict=True)
    return {"char_starts": np.array(starts), "char_ends": np.array(ends)}


def raw(*spans: tuple[float, int, int], null: float = -9.0) -> Raw:
    scores, starts, ends = (np.array(part) for part in zip(*spans, strict=True)) if spans else (np.zeros(0),) * 3
    return Raw(scores, starts, ends, null)


def test_stretches_of_all_windows_compete_and_each_text_comes_once() -> None:
    """By hand: the second window sees `Rome` better, and `Oslo` again at its other place."""
    windows = [window((-1, -1), (0, 4), (5, 8), (9, 13)), window((-1, -1), (9, 13), (14, 17), (18, 22))]
    found = join(windows, [raw((-1.0, 1, 1), (-3.0, 3, 3)), raw((-0.5, 3, 3), (-2.0, 1, 1), (-4.0, 1, 3))], CONTEXT)
    assert found == [Stretch(18, 22, -0.5), Stretch(9, 13, -2.0), Stretch(9, 22, -4.0)]


def test_no_answer_needs_every_window_to_hold_none() -> None:
    assert null_score([raw(null=-0.1), raw(null=-7.0), raw(null=-2.0)]) == -7.0


STRETCHES = [Stretch(9, 13, math.log(0.6)), Stretch(0, 4, math.log(0.2)), Stretch(0, 8, math.log(0.1))]


def test_answer_comes_with_its_share_of_all_candidates() -> None:
    """By hand: 0.6 / (0.6 + 0.2 + 0.1), of three candidates of which two are listed."""
    found = predicted(STRETCHES, CONTEXT, null=None, threshold=0.0, most=2)
    assert (found["answer"], found["start"], found["end"]) == ("Rome", 9, 13)
    assert found["score"] == pytest.approx(2 / 3)
    assert [one["answer"] for one in found["n_best"]] == ["Rome", "Oslo"]
    assert found["n_best"][1]["score"] == pytest.approx(2 / 9)
    assert "null_score_difference" not in found


@pytest.mark.parametrize(
    ("threshold", "answer", "place"), [(-1.0, "", None), (0.0, "Rome", 9), (math.log(0.3 / 0.6), "Rome", 9)]
)
def test_no_answer_is_given_where_it_exceeds_the_threshold(threshold: float, answer: str, place: int | None) -> None:
    found = predicted(STRETCHES, CONTEXT, null=math.log(0.3), threshold=threshold, most=2)
    assert (found["answer"], found["start"]) == (answer, place)
    assert found["null_score_difference"] == math.log(0.3) - math.log(0.6)
    assert [one["answer"] for one in found["n_best"]] == ["Rome", "", "Oslo"]
    assert sum(one["score"] for one in found["n_best"]) == pytest.approx(1.1 / 1.2)
    assert found["score"] == pytest.approx((0.6 if answer else 0.3) / 1.2)


@pytest.mark.parametrize("null", [None, -1.0])
def test_context_without_any_stretch_has_no_answer(null: float | None) -> None:
    found = predicted([], CONTEXT, null=null, threshold=50.0, most=5)
    assert (found["answer"], found["start"], found["end"]) == ("", None, None)
    assert found["score"] == (0.0 if null is None else 1.0)


QUESTIONS = st.lists(
    st.tuples(st.integers(-4, 4).map(float), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 1.0])),
    max_size=12,
)


def points(questions: list[tuple[float, float, float]], threshold: float) -> float:
    return sum(answered if margin <= threshold else none for margin, answered, none in questions)


@given(questions=QUESTIONS)
def test_threshold_is_the_best_of_all(questions: list[tuple[float, float, float]]) -> None:
    """Against every threshold that makes a difference; and among equally good ones the nearest to 0."""
    found = best_threshold(questions)
    margins = sorted({margin for margin, _, _ in questions})
    tried = [0.0, -99.0, *(margin + shift for margin in margins for shift in (0.0, 0.5))]
    best = max(points(questions, threshold) for threshold in tried)
    assert points(questions, found) == pytest.approx(best)
    if points(questions, 0.0) == best:
        assert found == 0.0
    assert all(abs(found - margin) > 0.1 for margin in margins) or found == 0.0


def test_threshold_of_squad_2_gives_as_many_points() -> None:
    """`find_best_thresh` of the official evaluate-v2.0.py, written from its definition: start with no answer at all,
    answer the questions by growing margin, and remember where the sum was greatest.
    """
    random = np.random.default_rng(3)
    questions = [(float(random.normal()), float(random.random()), float(random.random() < 0.4)) for _ in range(200)]
    questions = [(margin, 0.0 if none else answered, none) for margin, answered, none in questions]
    sums = np.cumsum([sum(none for _, _, none in questions), *(a - none for _, a, none in sorted(questions))])
    assert points(questions, best_threshold(questions)) == pytest.approx(float(sums.max()))

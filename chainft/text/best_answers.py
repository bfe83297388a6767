"""From the best stretches of all windows to answers: the likeliest first, each text once, with what speaks for none.

A stretch's score is the log-probability of its start and end in its window. It is comparable between windows because the
first token, to which windows without an answer point, takes its share of each window's probability.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Raw:
    """What the model says of one window."""

    scores: np.ndarray
    """(K,) of the best stretches, best first."""
    starts: np.ndarray
    """(K,) places of their first tokens in the window."""
    ends: np.ndarray
    """(K,) places of their last tokens."""
    null: float
    """Score of the window holding no answer."""


@dataclass(frozen=True)
class Stretch:
    """A stretch of the context, `[start, end)` in characters."""

    start: int
    end: int
    score: float


def predicted(
    stretches: Sequence[Stretch], context: str, *, null: float | None, threshold: float, most: int
) -> dict[str, Any]:
    """The answer with its probability among all candidates, its place, and the `most` best ones.

    `null`: the score of there being no answer, which then is a candidate too; it is given where it exceeds the best
    stretch by more than `threshold`, as answer "" without a place.
    """
    chances = shares([*(one.score for one in stretches), *([] if null is None else [null])])
    listed = [
        _entry(context[one.start : one.end], chance, one.start, one.end)
        for one, chance in zip(stretches, chances, strict=False)
    ]
    nothing = _entry("", 0.0 if null is None else chances[-1], None, None)
    if null is None:
        return {**(listed[0] if listed else nothing), "n_best": listed[:most]}
    difference = null - stretches[0].score if stretches else None
    answers = difference is not None and difference <= threshold
    candidates = sorted([*listed[:most], nothing], key=lambda one: -float(one["score"]))
    return {**(listed[0] if answers else nothing), "null_score_difference": difference, "n_best": candidates}


def join(windows: Sequence[dict[str, np.ndarray]], raw: Sequence[Raw], context: str) -> list[Stretch]:
    """All stretches, best first; of equal ones, and of equal texts, the best alone."""
    found: dict[str, Stretch] = {}
    every = (one for window, several in zip(windows, raw, strict=True) for one in _stretches(window, several))
    for one in sorted(every, key=lambda stretch: (-stretch.score, stretch.start, stretch.end)):
        if one.start < one.end:
            found.setdefault(context[one.start : one.end], one)
    return list(found.values())


def null_score(raw: Iterable[Raw]) -> float:
    """That of the question having no answer: of the window that is least sure of it, since all must hold none."""
    return min(one.null for one in raw)


def shares(scores: Sequence[float]) -> list[float]:
    """Softmax.

    >>> shares([0.0, 0.0])
    [0.5, 0.5]
    """
    values = np.exp(np.array(scores, np.float64) - max(scores, default=0.0))
    return [float(value) for value in values / values.sum()] if len(values) else []


def best_threshold(questions: Iterable[tuple[float, float, float]]) -> float:
    """The threshold with the greatest sum of points; of equally good ones, that nearest to 0.

    `questions`: how much the score of no answer exceeds that of the best stretch, the points for answering by that
    stretch, and the points for saying that there is no answer. Answered is what exceeds by at most the threshold, as
    `find_best_thresh` of SQuAD 2.0's evaluation has it; here the threshold is put in the middle between two questions.

    >>> best_threshold([(-3.0, 1.0, 0.0), (1.0, 1.0, 0.0), (2.0, 0.0, 1.0)])
    1.5
    """
    ordered = sorted(questions)
    if not ordered:
        return 0.0
    margins = [margin for margin, _, _ in ordered]
    # Cut number i: the first i questions are answered. A cut between equal margins is none.
    places = [margins[0] - 1.0, *((a + b) / 2 for a, b in pairwise(margins)), margins[-1] + 1.0]
    places = [0.0 if _holds_zero(margins, number) else place for number, place in enumerate(places)]
    points = np.cumsum([sum(none for _, _, none in ordered), *(answered - none for _, answered, none in ordered)])
    cuts = [
        number for number in range(len(places)) if number in (0, len(margins)) or margins[number - 1] < margins[number]
    ]
    most = max(points[number] for number in cuts)
    return float(min((places[number] for number in cuts if points[number] >= most - 1e-9), key=abs))


def _holds_zero(margins: Sequence[float], number: int) -> bool:
    """Whether a threshold of 0 makes cut `number`."""
    return (number == 0 or margins[number - 1] <= 0) and (number == len(margins) or margins[number] > 0)


def _entry(answer: str, score: float, start: int | None, end: int | None) -> dict[str, Any]:
    return {"answer": answer, "score": score, "start": start, "end": end}


def _stretches(window: dict[str, np.ndarray], raw: Raw) -> Iterable[Stretch]:
    for score, start, end in zip(raw.scores.tolist(), raw.starts.tolist(), raw.ends.tolist(), strict=True):
        yield Stretch(int(window["char_starts"][start]), int(window["char_ends"][end]), score)

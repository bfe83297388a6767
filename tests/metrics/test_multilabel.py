"""Scores of sets of labels, by hand and against scikit-learn."""

from __future__ import annotations

import random

import pytest

from chainft.metrics.multilabel import Multilabel
from chainft.tasks.base import Scores


def scores_of(gold: list[list[str]], predicted: list[list[str]]) -> Scores:
    metric = Multilabel()
    for one, other in zip(gold, predicted, strict=True):
        metric.update(one, other)
    return metric.compute()


def test_values_by_hand() -> None:
    scores = scores_of([["a", "b"], ["a"], []], [["a"], ["a", "b"], []])
    # In all: 2 right, 3 predicted, 3 gold. a: F 1 · b: 0 right · texts: F 2/3, 2/3, 0 (nothing of nothing).
    assert scores.values["precision_micro"] == pytest.approx(2 / 3)
    assert scores.values["recall_micro"] == pytest.approx(2 / 3)
    assert scores.values["f1_micro"] == pytest.approx(2 / 3)
    assert scores.values["f1_macro"] == pytest.approx((1 + 0) / 2)
    assert scores.values["f1_samples"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert scores.values["exact_match"] == pytest.approx(1 / 3)
    assert scores.tables[0].rows == (("a", 1.0, 1.0, 1.0, 2, 2), ("b", 0.0, 0.0, 0.0, 1, 1))


def test_order_and_repetition_of_labels_do_not_count() -> None:
    assert scores_of([["a", "b"]], [["b", "a", "a"]]).values["exact_match"] == 1.0


def test_no_examples_have_all_scores_and_they_are_zero() -> None:
    """fault 15: evaluation of nothing is defined."""
    empty, some = Multilabel().compute(), scores_of([["a"]], [["a"]])
    assert empty.values.keys() == some.values.keys()
    assert set(empty.values.values()) == {0.0}


def test_equal_to_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    chance = random.Random(1)
    names = "abcd"
    sets = [[[n for n in names if chance.random() < 0.4] for _ in range(200)] for _ in range(2)]
    gold, predicted = ([[int(n in labels) for n in names] for labels in side] for side in sets)
    values = scores_of(sets[0], sets[1]).values
    for average in ("micro", "macro", "samples"):
        assert values[f"f1_{average}"] == pytest.approx(
            sklearn.f1_score(gold, predicted, average=average, zero_division=0)
        )
    assert values["exact_match"] == pytest.approx(sklearn.accuracy_score(gold, predicted))

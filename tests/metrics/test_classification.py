"""Scores of single labels, by hand and against scikit-learn."""

from __future__ import annotations

import random

import pytest

from chainft.metrics.classification import Classification
from chainft.tasks.base import Scores


def scores_of(gold: list[str], predicted: list[str]) -> Scores:
    metric = Classification()
    for one, other in zip(gold, predicted, strict=True):
        metric.update(one, other)
    return metric.compute()


def test_values_by_hand() -> None:
    """a: 2 gold, 1 found, 1 predicted; b: 1 gold, found, 2 predicted; c: 1 gold, missed, 1 predicted."""
    scores = scores_of(["a", "a", "b", "c"], ["a", "b", "b", "a"])
    # a: P 1/2, R 1/2, F 1/2 · b: P 1/2, R 1, F 2/3 · c: P 0, R 0, F 0
    assert scores.values["accuracy"] == pytest.approx(2 / 4)
    assert scores.values["precision_macro"] == pytest.approx((1 / 2 + 1 / 2 + 0) / 3)
    assert scores.values["recall_macro"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert scores.values["f1_macro"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert scores.values["f1_weighted"] == pytest.approx((2 * 1 / 2 + 2 / 3 + 0) / 4)


def test_table_and_confusion_count_texts() -> None:
    scores = scores_of(["a", "a", "b"], ["a", "b", "b"])
    (table,), (confusion,) = scores.tables, scores.confusions
    assert table.title == "Texts by label"
    assert table.rows == (("a", 1.0, 0.5, pytest.approx(2 / 3), 2, 1), ("b", 0.5, 1.0, pytest.approx(2 / 3), 1, 2))
    assert confusion.labels == ("a", "b")
    assert confusion.counts == ((1, 1), (0, 1))


def test_no_examples_have_all_scores_and_they_are_zero() -> None:
    """fault 15: evaluation of nothing is defined."""
    empty, some = Classification().compute(), scores_of(["a"], ["a"])
    assert empty.values.keys() == some.values.keys()
    assert set(empty.values.values()) == {0.0}


@pytest.mark.filterwarnings("ignore")
def test_equal_to_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    chance = random.Random(0)
    gold = [chance.choice("abcde") for _ in range(300)]
    predicted = [chance.choice("abcdf") for _ in range(300)]
    values = scores_of(gold, predicted).values
    assert values["accuracy"] == pytest.approx(sklearn.accuracy_score(gold, predicted))
    for average in ("macro", "weighted"):
        wanted = sklearn.f1_score(gold, predicted, average=average, zero_division=0)
        assert values[f"f1_{average}"] == pytest.approx(wanted)
    wanted = sklearn.precision_score(gold, predicted, average="macro", zero_division=0)
    assert values["precision_macro"] == pytest.approx(wanted)
    assert values["recall_macro"] == pytest.approx(
        sklearn.recall_score(gold, predicted, average="macro", zero_division=0)
    )


@pytest.mark.parametrize("classes", ["ab", "abcde"])
def test_matthews_correlation_is_scikit_learn_s(classes: str) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    chance = random.Random(2)
    gold = [chance.choice(classes) for _ in range(200)]
    predicted = [one if chance.random() < 0.5 else chance.choice(classes + "f") for one in gold]
    values = scores_of(gold, predicted).values
    assert values["matthews_correlation"] == pytest.approx(sklearn.matthews_corrcoef(gold, predicted))


def test_matthews_correlation_of_one_class_is_zero() -> None:
    assert scores_of(["a", "a"], ["a", "a"]).values["matthews_correlation"] == 0.0

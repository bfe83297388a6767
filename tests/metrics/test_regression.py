"""Scores of numbers, by hand and against scipy and scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from chainft.metrics.rank_correlation import RankCorrelation
from chainft.metrics.regression import Regression
from chainft.tasks.base import Scores, merge_scores

stats = pytest.importorskip("scipy.stats")
sklearn = pytest.importorskip("sklearn.metrics")


def scores_of(gold: Sequence[float], predicted: Sequence[float]) -> Scores:
    metrics = Regression(), RankCorrelation()
    for one, other in zip(gold, predicted, strict=True):
        for metric in metrics:
            metric.update(one, other)
    return merge_scores(metric.compute() for metric in metrics)


def test_values_by_hand() -> None:
    values = scores_of([1, 2, 3], [2, 2, 5]).values
    assert values["mean_absolute_error"] == pytest.approx(3 / 3)
    assert values["mean_squared_error"] == pytest.approx((1 + 0 + 4) / 3)
    assert values["pearson"] == pytest.approx(3 / (2**0.5 * 6**0.5))
    assert values["spearman"] == pytest.approx(1.5 / (2**0.5 * 1.5**0.5))  # ranks 1, 2, 3 and 1.5, 1.5, 3


@pytest.mark.parametrize("shift", [0.0, 1e8])
def test_equal_to_scipy_and_scikit_learn(shift: float) -> None:
    """Also far from zero, where sums of squares would lose all digits."""
    random = np.random.default_rng(0)
    gold = np.round(random.normal(size=300), 1) + shift
    predicted = gold + random.normal(size=300)
    values = scores_of(gold.tolist(), predicted.tolist()).values
    assert values["pearson"] == pytest.approx(stats.pearsonr(gold - shift, predicted - shift).statistic, abs=1e-6)
    assert values["spearman"] == pytest.approx(stats.spearmanr(gold, predicted).statistic)
    assert values["mean_absolute_error"] == pytest.approx(sklearn.mean_absolute_error(gold, predicted))
    assert values["mean_squared_error"] == pytest.approx(sklearn.mean_squared_error(gold, predicted))


@pytest.mark.parametrize(("gold", "predicted"), [([1, 2], [3, 3]), ([1, 1], [2, 3]), ([1], [1]), ([], [])])
def test_an_undefined_correlation_is_zero(gold: list[float], predicted: list[float]) -> None:
    """fault 15: evaluation of nothing is defined."""
    values = scores_of(gold, predicted).values
    assert (values["pearson"], values["spearman"]) == (0.0, 0.0)


def test_the_chart_has_the_mean_prediction_of_neighbouring_gold_scores() -> None:
    gold = [float(number) for number in range(20)]
    (chart,) = scores_of(gold, [2 * one for one in gold]).charts
    model, right = chart.series
    assert model.points[0] == (0.5, 1.0) and model.points[-1] == (18.5, 37.0) and len(model.points) == 10
    assert right.points == ((0.0, 0.0), (19.0, 19.0))

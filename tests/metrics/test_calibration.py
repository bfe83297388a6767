"""The expected calibration error, by hand and by the formula of Guo et al. (2017)."""

from __future__ import annotations

import numpy as np
import pytest

from chainft.metrics.calibration import NUM_BINS, Calibration


def of(probability: float, label: str = "a") -> dict[str, object]:
    other = "b" if label == "a" else "a"
    return {"label": label, "score": probability, "scores": {label: probability, other: 1 - probability}}


def test_values_by_hand() -> None:
    """Bins of 1/15: 0.9 and 0.92 share one (one of two is right), 0.6 has its own (right)."""
    metric = Calibration()
    for gold, probability in (("a", 0.9), ("b", 0.92), ("a", 0.6)):
        metric.update(gold, of(probability))
    scores = metric.compute()
    assert scores.values["calibration_error"] == pytest.approx((abs(1 - 1.82) + abs(1 - 0.6)) / 3)
    model, diagonal = scores.charts[0].series
    assert model.points == ((pytest.approx(0.6), 1.0), (pytest.approx(0.91), 0.5))
    assert diagonal.points == ((0.0, 0.0), (1.0, 1.0))


def test_the_upper_end_of_a_bin_belongs_to_it() -> None:
    """9/15 = 0.6 is in the bin up to 0.6, not in the one with 0.61: their gaps do not cancel out."""
    metric = Calibration()
    metric.update("b", of(9 / 15))
    metric.update("a", of(0.61))
    assert metric.compute().values["calibration_error"] == pytest.approx((0.6 + 0.39) / 2)


def test_equal_to_the_formula_on_random_probabilities() -> None:
    random = np.random.default_rng(0)
    rows = random.dirichlet([1, 1, 1], 500)
    gold = random.integers(3, size=500)
    metric = Calibration()
    for row, answer in zip(rows, gold, strict=True):
        metric.update("abc"[answer], {"scores": dict(zip("abc", map(float, row), strict=True))})
    top, right = rows.max(1), rows.argmax(1) == gold
    wanted = 0.0
    for number in range(NUM_BINS):
        inside = (top > number / NUM_BINS) & (top <= (number + 1) / NUM_BINS)
        if inside.any():
            wanted += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    assert metric.compute().values["calibration_error"] == pytest.approx(wanted)


def test_texts_with_a_label_that_the_model_lacks_do_not_count() -> None:
    metric = Calibration()
    metric.update("a", of(0.9))
    before = metric.compute()
    metric.update("oos", of(0.99))
    assert metric.compute() == before


def test_no_examples_have_the_value_and_it_is_zero() -> None:
    """fault 15: evaluation of nothing is defined."""
    assert Calibration().compute().values == {"calibration_error": 0.0}

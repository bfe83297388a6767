"""Numbers against numbers: Pearson's correlation, mean absolute and mean squared error, in constant memory."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from chainft.metrics.base import ratio
from chainft.tasks.base import Metric, Scores

_MEANINGS = {
    "pearson": "correlation of predicted and gold scores: 1 where they lie on a rising straight line, 0 where they have"
    " nothing to do with each other",
    "mean_absolute_error": "mean distance from the gold score, in its unit (lower is better)",
    "mean_squared_error": "mean squared distance from the gold score (lower is better)",
}


class Regression(Metric):
    """Means and (co)variances updated text by text (B. P. Welford, Technometrics 1962), which loses no digits."""

    family: ClassVar[Literal["number"]] = "number"

    def __init__(self) -> None:
        self._texts = 0
        self._gold_mean = self._given_mean = 0.0
        self._gold_squares = self._given_squares = self._products = 0.0
        """Sums over the texts of (products of) distances from the means."""
        self._absolute = self._squared = 0.0

    def update(self, gold: float, predicted: float) -> None:
        self._texts += 1
        gold_step, given_step = gold - self._gold_mean, predicted - self._given_mean
        self._gold_mean += gold_step / self._texts
        self._given_mean += given_step / self._texts
        self._gold_squares += gold_step * (gold - self._gold_mean)
        self._given_squares += given_step * (predicted - self._given_mean)
        self._products += gold_step * (predicted - self._given_mean)
        self._absolute += abs(gold - predicted)
        self._squared += (gold - predicted) ** 2

    def compute(self) -> Scores:
        """Pearson's correlation is 0.0 where either side has one value only."""
        values = {
            "pearson": ratio(self._products, math.sqrt(self._gold_squares) * math.sqrt(self._given_squares)),
            "mean_absolute_error": ratio(self._absolute, self._texts),
            "mean_squared_error": ratio(self._squared, self._texts),
        }
        return Scores(values, meanings=_MEANINGS)


PLUGIN = Regression

"""Numbers against numbers by order alone: Spearman's rank correlation, and a chart of predicted against gold scores."""

from __future__ import annotations

from array import array
from typing import ClassVar, Literal

import numpy as np

from chainft.metrics._ranks import mid_ranks
from chainft.tasks.base import Chart, Metric, Scores, Series

STRETCHES = 10
"""The chart has a point for as many neighbouring groups of texts, about equally large."""


class RankCorrelation(Metric):
    """Keeps all numbers, because ranks need them: 16 bytes a text."""

    family: ClassVar[Literal["number"]] = "number"

    def __init__(self) -> None:
        self._gold = array("d")
        self._given = array("d")

    def update(self, gold: float, predicted: float) -> None:
        self._gold.append(gold)
        self._given.append(predicted)

    def compute(self) -> Scores:
        """Spearman's rho: Pearson's correlation of ranks, equal numbers sharing theirs; 0.0 where it is undefined."""
        gold, given = np.frombuffer(self._gold), np.frombuffer(self._given)
        meanings = {"spearman": "correlation of the order of predicted and gold scores: 1 where the order is the same"}
        return Scores({"spearman": spearman(gold, given)}, charts=_charts(gold, given), meanings=meanings)


def spearman(gold: np.ndarray, given: np.ndarray) -> float:
    """Of two arrays (N,); 0.0 where either has one value only, or none."""
    if not len(gold) or np.ptp(gold) == 0 or np.ptp(given) == 0:
        return 0.0
    return float(np.corrcoef(mid_ranks(gold), mid_ranks(given))[0, 1])


def _charts(gold: np.ndarray, given: np.ndarray) -> tuple[Chart, ...]:
    if not len(gold):
        return ()
    order = np.argsort(gold, kind="stable")
    groups = [part for part in np.array_split(order, min(STRETCHES, len(order))) if len(part)]
    means = {float(gold[part].mean()): float(given[part].mean()) for part in groups}
    least, most = float(gold.min()), float(gold.max())
    note = "Texts sorted by gold score in groups: the mean prediction of each. On the diagonal predictions are right."
    series = Series("model", tuple(means.items())), Series("right", ((least, least), (most, most)))
    return (Chart("Predicted by gold score", note, "gold score", series),)


PLUGIN = RankCorrelation

"""Any number of labels a text: area under the ROC curve and average precision of each label, whatever the threshold."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from chainft.metrics._ranking import RankedScores
from chainft.tasks.base import Metric, Prediction, Scores


class MultilabelRanking(Metric):
    """Macro averages over labels. Memory: 5 bytes a text and label."""

    family: ClassVar[Literal["labels"]] = "labels"
    needs_scores: ClassVar[bool] = True

    def __init__(self) -> None:
        self._kept = RankedScores()

    def update(self, gold: Collection[str], predicted: Prediction) -> None:
        self._kept.add(gold, predicted)

    def compute(self) -> Scores:
        return self._kept.compute()


PLUGIN = MultilabelRanking

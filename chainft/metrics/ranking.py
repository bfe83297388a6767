"""One label a text: area under the ROC curve and average precision, each label against the others."""

from __future__ import annotations

from typing import ClassVar, Literal

from chainft.metrics._ranking import RankedScores
from chainft.tasks.base import Metric, Prediction, Scores


class Ranking(Metric):
    """Macro averages of one label against the rest; of two labels `auroc` is that of either.

    Texts whose gold label the model does not have are left out. Memory: 5 bytes a text and label.
    """

    family: ClassVar[Literal["label"]] = "label"
    needs_scores: ClassVar[bool] = True

    def __init__(self) -> None:
        self._kept = RankedScores()

    def update(self, gold: str, predicted: Prediction) -> None:
        if gold in predicted["scores"]:
            self._kept.add((gold,), predicted)

    def compute(self) -> Scores:
        return self._kept.compute()


PLUGIN = Ranking

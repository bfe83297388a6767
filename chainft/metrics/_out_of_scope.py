"""Texts that no label fits: how well they are told from the others.

In-scope accuracy and out-of-scope recall: S. Larson et al., "An Evaluation Dataset for Intent Classification and
Out-of-Scope Prediction", EMNLP 2019.
"""

from __future__ import annotations

from array import array
from typing import ClassVar, Literal

import numpy as np

from chainft.metrics._ranks import auroc
from chainft.metrics.base import Counts, ratio
from chainft.tasks.base import Metric, Prediction, Scores

_MEANINGS = {
    "in_scope_accuracy": "of the texts that a label fits, the share whose label is right",
    "out_of_scope_recall": "of the texts that no label fits, the share that was rejected",
    "out_of_scope_precision": "of the texts that were rejected, the share that no label fits",
    "out_of_scope_auroc": "how often a text that no label fits has a less probable likeliest label than one that a label"
    " fits, whatever the threshold (0.5: by chance)",
}


class OutOfScope(Metric):
    """Counts predictions of the label that marks texts out of scope. Memory: 9 bytes a text. 0.0 of no such texts."""

    family: ClassVar[Literal["label"]] = "label"
    needs_scores: ClassVar[bool] = True

    def __init__(self, label: str) -> None:
        self._label = label
        self._in_scope = self._right = 0
        self._rejected = Counts(0, 0, 0)
        self._confidence = array("d")
        self._foreign = bytearray()

    def update(self, gold: str, predicted: Prediction) -> None:
        """The confidence is the greatest probability of another label than that of texts out of scope."""
        foreign, rejected = gold == self._label, predicted["label"] == self._label
        self._rejected = self._rejected.plus(Counts(foreign and rejected, rejected, foreign))
        self._in_scope += not foreign
        self._right += not foreign and predicted["label"] == gold
        scores = predicted["scores"]
        self._confidence.append(max((one for name, one in scores.items() if name != self._label), default=0.0))
        self._foreign.append(foreign)

    def compute(self) -> Scores:
        confidence, foreign = np.frombuffer(self._confidence), np.frombuffer(self._foreign, dtype=bool)
        values = {
            "in_scope_accuracy": ratio(self._right, self._in_scope),
            "out_of_scope_recall": self._rejected.recall,
            "out_of_scope_precision": self._rejected.precision,
            "out_of_scope_auroc": auroc(-confidence, foreign) or 0.0,
        }
        return Scores(values, meanings=_MEANINGS)

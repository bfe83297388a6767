"""The scores of all texts and labels, kept to be ranked: what `ranking` and `multilabel_ranking` share."""

from __future__ import annotations

from array import array
from collections.abc import Collection

import numpy as np

from chainft.metrics._ranks import auroc, average_precision
from chainft.metrics.base import mean
from chainft.tasks.base import Prediction, Scores

_MEANINGS = {
    "auroc": "how often a text that has a label gets a higher probability of it than one that has not (0.5: by chance);"
    " the plain mean over labels",
    "average_precision": "precision, averaged over the texts that have a label when all are sorted by its probability;"
    " the plain mean over labels",
}


class RankedScores:
    """Exact, so nothing is binned: 4 bytes a text and label (float32) and 1 for the gold answer."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._scores = array("f")
        self._gold = bytearray()

    def add(self, gold: Collection[str], prediction: Prediction) -> None:
        """One text: the names of its labels, and its prediction with `scores` of all labels."""
        scores = prediction["scores"]
        self._names = self._names or tuple(sorted(scores))
        self._scores.extend(scores[name] for name in self._names)
        self._gold.extend(name in gold for name in self._names)

    def compute(self) -> Scores:
        """Means over the labels that some text has and some has not; 0.0 where there is none."""
        shape = (-1, len(self._names) or 1)
        scores = np.frombuffer(self._scores, dtype=np.float32).reshape(shape)  # (N, C)
        gold = np.frombuffer(self._gold, dtype=bool).reshape(shape)
        mixed = [at for at in range(scores.shape[1]) if len(gold) and 0 < gold[:, at].sum() < len(gold)]
        found = {
            name: mean(value for at in mixed if (value := rate(scores[:, at], gold[:, at])) is not None)
            for name, rate in (("auroc", auroc), ("average_precision", average_precision))
        }
        return Scores(found, meanings=_MEANINGS)

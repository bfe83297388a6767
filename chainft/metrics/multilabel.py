"""Any number of labels a text: F1 over all labels, over classes and over texts, and exact matches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Literal

from chainft.metrics.base import Counts, mean, ratio
from chainft.metrics.classification import class_table
from chainft.tasks.base import Metric, Scores


class Multilabel(Metric):
    """Counts pairs of label sets; memory grows with the number of classes only.

    A text without gold labels and without predicted ones is an exact match, but has F1 0.0 in `f1_samples`
    (nothing divided by nothing is 0.0 everywhere, as in scikit-learn).
    """

    family: ClassVar[Literal["labels"]] = "labels"

    def __init__(self) -> None:
        self._right: Counter[str] = Counter()
        self._predicted: Counter[str] = Counter()
        self._gold: Counter[str] = Counter()
        self._texts = 0
        self._exact = 0
        self._f1_sum = 0.0

    def update(self, gold: Iterable[str], predicted: Iterable[str]) -> None:
        wanted, given = set(gold), set(predicted)
        self._right.update(wanted & given)
        self._predicted.update(given)
        self._gold.update(wanted)
        self._texts += 1
        self._exact += wanted == given
        self._f1_sum += Counts(len(wanted & given), len(given), len(wanted)).f1

    def compute(self) -> Scores:
        """Micro scores count labels of all texts, `f1_samples` is the mean over texts."""
        classes = {
            name: Counts(self._right[name], self._predicted[name], self._gold[name])
            for name in sorted({*self._gold, *self._predicted})
        }
        together = Counts(self._right.total(), self._predicted.total(), self._gold.total())
        values = {
            "f1_micro": together.f1,
            "precision_micro": together.precision,
            "recall_micro": together.recall,
            "f1_macro": mean(count.f1 for count in classes.values()),
            "f1_samples": ratio(self._f1_sum, self._texts),
            "exact_match": ratio(self._exact, self._texts),
        }
        return Scores(values, (class_table("Texts by label", classes),))


PLUGIN = Multilabel

"""One label a text: accuracy, F1, Matthews correlation, a table per class, and who is confused with whom."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import ClassVar, Literal

from chainft.metrics.base import Counts, mean, ratio
from chainft.tasks.base import Confusion, Metric, Scores, Table

_MATTHEWS = "correlation of predicted and gold labels: 1 is perfect, 0 by chance, whatever the sizes of the classes"


class Classification(Metric):
    """Counts (gold, predicted) pairs; memory grows with the number of classes only.

    Macro averages run over the classes that are gold or predicted at least once, as in scikit-learn; a class
    without gold (or without predictions) has recall (precision) 0.0. Micro-F1 of single labels is the accuracy.
    """

    family: ClassVar[Literal["label"]] = "label"

    def __init__(self) -> None:
        self._pairs: Counter[tuple[str, str]] = Counter()

    def update(self, gold: str, predicted: str) -> None:
        self._pairs[gold, predicted] += 1

    def compute(self) -> Scores:
        """Accuracy, macro precision, recall and F1, F1 weighted by support, and Matthews correlation."""
        total = self._pairs.total()
        classes = self._classes()
        values = {
            "accuracy": ratio(sum(count.right for count in classes.values()), total),
            "f1_macro": mean(count.f1 for count in classes.values()),
            "f1_weighted": ratio(sum(count.f1 * count.gold for count in classes.values()), total),
            "precision_macro": mean(count.precision for count in classes.values()),
            "recall_macro": mean(count.recall for count in classes.values()),
            "matthews_correlation": matthews_correlation(classes.values()),
        }
        tables, confusions = (class_table("Texts by label", classes),), (self._confusion(tuple(classes)),)
        return Scores(values, tables, confusions, meanings={"matthews_correlation": _MATTHEWS})

    def _classes(self) -> dict[str, Counts]:
        """Counts of each class, sorted by name."""
        gold: Counter[str] = Counter()
        predicted: Counter[str] = Counter()
        for (one, other), number in self._pairs.items():
            gold[one] += number
            predicted[other] += number
        return {
            name: Counts(self._pairs[name, name], predicted[name], gold[name]) for name in sorted({*gold, *predicted})
        }

    def _confusion(self, labels: tuple[str, ...]) -> Confusion:
        counts = tuple(tuple(self._pairs[row, column] for column in labels) for row in labels)
        return Confusion("Texts by gold label (rows) and predicted label (columns)", labels, counts)


def matthews_correlation(classes: Iterable[Counts]) -> float:
    """From the counts of each class; 0.0 where all texts have one label, or get one.

    J. Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", 2004, eq. 8.
    """
    counts = list(classes)
    right, texts = sum(one.right for one in counts), sum(one.gold for one in counts)
    both = [one.gold for one in counts], [one.predicted for one in counts]
    spread = [texts**2 - sum(size**2 for size in sizes) for sizes in both]
    covariance = right * texts - sum(one.gold * one.predicted for one in counts)
    return ratio(covariance, math.sqrt(math.prod(spread)))


def class_table(title: str, classes: dict[str, Counts]) -> Table:
    """Precision, recall and F1 of each class, with how many are gold and how many predicted."""
    rows = tuple(
        (name, count.precision, count.recall, count.f1, count.gold, count.predicted) for name, count in classes.items()
    )
    return Table(title, ("label", "precision", "recall", "F1", "gold texts", "predicted texts"), rows)


PLUGIN = Classification

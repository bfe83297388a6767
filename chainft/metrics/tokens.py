"""Scores of single words: one tag a word, in a table by tag. Most words are O, so these look better than entities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from chainft.metrics.base import Counts, mean, ratio
from chainft.tasks.base import Confusion, Metric, Scores, Table


class Tokens(Metric):
    """Accuracy and F1 of tags, a table by tag, and which tag was taken for which. O is a tag like the others."""

    family: ClassVar[Literal["tags"]] = "tags"

    def __init__(self) -> None:
        self._pairs: Counter[tuple[str, str]] = Counter()
        """How often (gold, predicted) came up."""

    def update(self, gold: Sequence[str], predicted: Sequence[str]) -> None:
        """Count the tags of one sentence. Raises ValueError for different lengths."""
        self._pairs.update(zip(gold, predicted, strict=True))

    def compute(self) -> Scores:
        """Accuracy, mean F1 over tags (plain and by support), the table and the confusion."""
        tags = self._by_tag()
        total, right = self._pairs.total(), sum(counts.right for counts in tags.values())
        values = {
            "token_accuracy": ratio(right, total),
            "token_f1_macro": mean(counts.f1 for counts in tags.values()),
            "token_f1_weighted": ratio(sum(counts.f1 * counts.gold for counts in tags.values()), total),
        }
        table = tag_table("Tokens (single words; mostly O)", "tag", tags, Counts(right, total, total))
        matrix = tuple(tuple(self._pairs[gold, predicted] for predicted in tags) for gold in tags)
        confusion = Confusion("Tags of single words: gold (rows), predicted (columns)", tuple(tags), matrix)
        return Scores(values, (table,), (confusion,))

    def _by_tag(self) -> dict[str, Counts]:
        """Counts of each tag that is gold or predicted: by type, B- before I-, O last."""
        gold: Counter[str] = Counter()
        predicted: Counter[str] = Counter()
        for (there, told), count in self._pairs.items():
            gold[there] += count
            predicted[told] += count
        names = sorted({*gold, *predicted}, key=_order)
        return {name: Counts(self._pairs[name, name], predicted[name], gold[name]) for name in names}


def tag_table(title: str, first_column: str, classes: Mapping[str, Counts], together: Counts) -> Table:
    """Rates and support of each class, then their averages as scikit-learn and seqeval define them.

    `together` counts all classes as one, for the micro average.
    """
    sizes = [counts.gold for counts in classes.values()]
    averages = (
        ("micro average", together.precision, together.recall, together.f1, sum(sizes)),
        ("macro average", *_means(classes.values(), [1] * len(sizes)), sum(sizes)),
        ("weighted average", *_means(classes.values(), sizes), sum(sizes)),
    )
    rows = [(name, counts.precision, counts.recall, counts.f1, counts.gold) for name, counts in classes.items()]
    return Table(title, (first_column, "precision", "recall", "F1", "support"), (*rows, *averages))


def _means(classes: Iterable[Counts], weights: Sequence[int]) -> tuple[float, float, float]:
    """Weighted means of precision, recall and F1."""
    weighted = list(zip(classes, weights, strict=True))
    total = sum(weights)
    return (
        ratio(sum(counts.precision * weight for counts, weight in weighted), total),
        ratio(sum(counts.recall * weight for counts, weight in weighted), total),
        ratio(sum(counts.f1 * weight for counts, weight in weighted), total),
    )


def _order(tag: str) -> tuple[bool, str, str]:
    return tag == "O", tag[2:], tag[:2]


PLUGIN = Tokens

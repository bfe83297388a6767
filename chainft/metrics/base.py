"""What metrics share: how a task makes its counters, and the arithmetic of precision, recall and F1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from chainft.errors import ConfigError
from chainft.registry import find
from chainft.tasks.base import Metric


def make_metrics(names: Sequence[str], family: str) -> list[Metric]:
    """Fresh counters by name. Raises ConfigError for one that counts another kind of answer than `family`."""
    metrics: list[Metric] = []
    for name in names:
        kind: type[Metric] = find("metric", name, key="task.metrics")
        if kind.family != family:
            raise ConfigError(
                f"metric {name!r} counts answers of the kind {kind.family!r}, this task gives {family!r}",
                slug="wrong-metric",
                key="task.metrics",
            )
        metrics.append(kind())
    return metrics


class Counts(NamedTuple):
    """Right answers, answers given, and answers there are to find."""

    right: int
    predicted: int
    gold: int

    @property
    def precision(self) -> float:
        return ratio(self.right, self.predicted)

    @property
    def recall(self) -> float:
        return ratio(self.right, self.gold)

    @property
    def f1(self) -> float:
        return ratio(2 * self.right, self.predicted + self.gold)

    def plus(self, other: Counts) -> Counts:
        return Counts(self.right + other.right, self.predicted + other.predicted, self.gold + other.gold)


def ratio(part: float, whole: float) -> float:
    """`part / whole`, and 0.0 where there is nothing."""
    return part / whole if whole else 0.0


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean; 0.0 of nothing."""
    listed = list(values)
    return ratio(sum(listed), len(listed))

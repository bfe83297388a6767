"""What metrics share: how a task makes its counters, and the arithmetic of precision, recall and F1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from chainft.errors import ConfigError, did_you_mean
from chainft.registry import find
from chainft.tasks.base import Metric, Task, merge_scores


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


def check_metric(name: str | None, task: Task) -> None:
    """Raise ConfigError where `task` reports no value `name`: metrics tell their names without any example."""
    empty = merge_scores(metric.compute() for metric in task.metrics())
    names = {**empty.values, **task.all_loss_scores(dict.fromkeys(task.tasks or [""], 1.0))}
    if name is not None and name not in names:
        raise unknown_metric(name, names)


def unknown_metric(metric: str, values: Mapping[str, float]) -> ConfigError:
    """The error for a metric that the task does not report."""
    return ConfigError(
        f"there is no metric {metric!r}; this task reports {', '.join(sorted(values))}",
        slug="unknown-metric",
        key="evaluation.metric",
        help=did_you_mean(metric, values),
    )


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

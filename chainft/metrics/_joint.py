"""The metrics of several tasks that are learned together, and the mean of their main ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from chainft.metrics._direction import falls
from chainft.metrics.base import mean
from chainft.tasks.base import Metric, Prediction, Scores, merge_scores

MEAN = "mean_score"
"""Mean over the tasks of the main metric of each."""


class JointMetric(Metric):
    """Passes each task's answers to its metrics; values are `<task>/<metric>`, tables say the task's name."""

    family: ClassVar[str] = "joint"
    needs_scores: ClassVar[bool] = True

    def __init__(
        self,
        metrics: Mapping[str, Sequence[Metric]],
        mains: Mapping[str, str],
        answers: Mapping[str, Callable[[Prediction], Any]],
    ) -> None:
        """`mains`: the main metric of each task; `answers`: what turns its predictions into answers."""
        self._metrics = metrics
        self._mains = mains
        self._answers = answers
        self._seen: Counter[str] = Counter()

    def update(self, gold: Mapping[str, Any], predicted: Mapping[str, Any]) -> None:
        """The gold answers and the predictions, by task."""
        for name, answer in gold.items():
            self._seen[name] += 1
            given = self._answers[name](predicted[name])
            for metric in self._metrics[name]:
                metric.update(answer, predicted[name] if metric.needs_scores else given)

    def compute(self) -> Scores:
        """The scores of the tasks of which there were examples, and the mean over these; of all where there were none."""
        chosen = [name for name in self._metrics if self._seen[name] or not self._seen]
        parts = {name: merge_scores(one.compute() for one in self._metrics[name]) for name in chosen}
        mains = {name: part.values[self._mains[name]] for name, part in parts.items() if self._has_main(name, part)}
        scores = merge_scores(_named(name, part) for name, part in parts.items())
        if len(mains) < len(parts) or any(map(falls, self._mains.values())):
            return scores
        return replace(scores, values={MEAN: mean(list(mains.values())), **scores.values})

    def _has_main(self, name: str, part: Scores) -> bool:
        """Losses are no scores, and the mean is not over them."""
        return self._mains[name] in part.values and not falls(self._mains[name])


def _named(name: str, part: Scores) -> Scores:
    return Scores(
        {f"{name}/{key}": value for key, value in part.values.items()},
        tuple(replace(table, title=f"{name}: {table.title}") for table in part.tables),
        tuple(replace(confusion, title=f"{name}: {confusion.title}") for confusion in part.confusions),
        tuple(replace(chart, title=f"{name}: {chart.title}") for chart in part.charts),
        {f"{name}/{key}": text for key, text in part.meanings.items()},
    )

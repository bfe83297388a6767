"""Scores of simple answers, which tell whether training a model was worth it at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chainft.data.example import Example
from chainft.tasks.base import Task, merge_scores


def score_baselines(
    task: Task, train: Sequence[Example], examples: Sequence[Example]
) -> Mapping[str, Mapping[str, float]]:
    """The values of each of the task's baselines on `examples`, by the names of baseline and metric.

    Metrics that need more than an answer, such as its probability, are left out.
    """
    scored: dict[str, Mapping[str, float]] = {}
    for name, answer in task.baselines(train).items():
        metrics = [metric for metric in task.metrics() if not metric.needs_scores]
        for example in examples:
            gold, given = task.gold(example), answer(example)
            for metric in metrics:
                metric.update(gold, given)
        if metrics:
            scored[name] = merge_scores(metric.compute() for metric in metrics).values
    return scored

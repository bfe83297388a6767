"""Scores of simple answers, which tell whether training a model was worth it at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chainft.data.example import Example
from chainft.data.joint import of_task
from chainft.metrics._direction import falls
from chainft.metrics._joint import MEAN
from chainft.metrics.base import mean
from chainft.tasks.base import Task, Together, merge_scores

_AT_ONCE = 4096
"""Examples that a baseline answers together."""

BEST = "each best"
"""Of several tasks with data of their own: what the best baseline of each reaches, under its main metric."""

Scored = Mapping[str, Mapping[str, float]]
"""Values by the names of baseline and metric."""


def score_baselines(task: Task, train: Sequence[Example], examples: Sequence[Example]) -> Scored:
    """The values of each of the task's baselines on `examples`.

    Metrics that need more than an answer, such as its probability, are left out. Of several tasks with data of their
    own, each is scored by itself: values are `<task>/<metric>`, and those of baselines of one name stand together.
    """
    return _of_one(task, train, examples) if task.has_own_data else _of_each(task, train, examples)


def _of_one(task: Task, train: Sequence[Example], examples: Sequence[Example]) -> Scored:
    scored: dict[str, Mapping[str, float]] = {}
    for name, answer in task.baselines(train).items():
        metrics = [metric for metric in task.metrics() if not metric.needs_scores]
        for start in range(0, len(examples), _AT_ONCE):
            some = examples[start : start + _AT_ONCE]
            answers = answer.answers(some) if isinstance(answer, Together) else map(answer, some)
            for example, given in zip(some, answers, strict=True):
                gold = task.gold(example)
                for metric in metrics:
                    metric.update(gold, given)
        if metrics:
            scored[name] = merge_scores(metric.compute() for metric in metrics).values
    return scored


def _of_each(task: Task, train: Sequence[Example], examples: Sequence[Example]) -> Scored:
    """Tasks of which there are examples; with `BEST` last, and its mean where the model's scores have one."""
    scored: dict[str, dict[str, float]] = {}
    best: dict[str, float] = {}
    shown = {name: rows for name in task.tasks if (rows := of_task({"test": examples}, name).get("test"))}
    for name, rows in shown.items():
        one = task.tasks[name]
        found = score_baselines(one, of_task({"train": train}, name).get("train", ()), rows)
        for baseline, values in found.items():
            scored.setdefault(baseline, {}).update({f"{name}/{key}": value for key, value in values.items()})
        reached = [values[one.main_metric] for values in found.values() if one.main_metric in values]
        if reached:
            best[name] = (min if falls(one.main_metric) else max)(reached)
    mains = {name: f"{name}/{one.main_metric}" for name, one in task.tasks.items()}
    if best:
        scored[BEST] = {mains[name]: value for name, value in best.items()}
    if best and len(best) == len(shown) and not any(map(falls, mains.values())):
        scored[BEST] = {MEAN: mean(list(best.values())), **scored[BEST]}
    return scored

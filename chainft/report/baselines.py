"""The trained model beside simple answers: on terminal and page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chainft.metrics._direction import falls
from chainft.report.run_files import Outcome
from chainft.report.words import judgement, number
from chainft.tasks.base import Table


@dataclass(frozen=True)
class Verdict:
    """A model against the best baseline under one metric."""

    metric: str
    value: float
    """Of the model."""
    baseline: str
    """The one that does best."""
    reached: float

    @property
    def is_better(self) -> bool:
        """Whether the model does better."""
        return judgement(self.metric, self.reached, self.value) == "better"

    @property
    def words(self) -> str:
        """`better than the best simple baseline: words, 0.7210`"""
        told = "better" if self.is_better else "NOT better"
        return f"{told} than the best simple baseline: {self.baseline}, {number(self.reached)}"


def verdicts(outcome: Outcome) -> Iterator[Verdict]:
    """Under the main metric, then under that of each task that is learned together; none without baselines."""
    values = outcome.shown[1].values if outcome.shown else {}
    for metric in dict.fromkeys((outcome.main_metric or "", *outcome.task_metrics)):
        found = {name: one[metric] for name, one in outcome.baselines.items() if metric in one}
        if found and metric in values:
            name = (min if falls(metric) else max)(found, key=lambda one: found[one])
            yield Verdict(metric, values[metric], name, found[name])


def baselines_table(outcome: Outcome) -> Table | None:
    """The trained model beside each baseline, for each value that both have; None without baselines."""
    if not outcome.baselines or outcome.shown is None:
        return None
    split, scores = outcome.shown
    names = [name for name in scores.values if any(name in values for values in outcome.baselines.values())]
    names.sort(key=lambda name: name != outcome.main_metric)
    rows = tuple(
        (name, scores.values[name], *(values.get(name) for values in outcome.baselines.values())) for name in names
    )
    return Table(f"Compared with simple baselines ({split})", ("metric", "trained", *outcome.baselines), rows)

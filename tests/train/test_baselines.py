"""Simple answers are scored by the task's own metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from chainft.data.example import Example
from chainft.tasks.base import Metric, Scores
from chainft.tasks.classify import Classify, ClassifyConfig
from chainft.text.inputs import text_example
from chainft.train.baselines import score_baselines


class NeedsScores(Metric):
    family: ClassVar[str] = "label"
    needs_scores: ClassVar[bool] = True

    def update(self, gold: Any, predicted: Any) -> None:
        raise AssertionError("a baseline has no scores")

    def compute(self) -> Scores:
        return Scores({"confidence": 1.0})


class WithBaselines:
    """Answers the first label of train, or the gold label."""

    def __init__(self) -> None:
        self._task = Classify(ClassifyConfig())

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Callable[[Example], Any]]:
        return {"first": lambda one: train[0].values["label"], "oracle": lambda one: one.values["label"]}

    def gold(self, example: Example) -> str:
        return self._task.gold(example)

    def metrics(self) -> list[Metric]:
        return [*self._task.metrics(), NeedsScores()]


def _texts(*labels: str) -> list[Example]:
    return [
        text_example({"text": f"text {number}", "label": label}, f"line {number}")
        for number, label in enumerate(labels)
    ]


def test_each_baseline_has_the_values_of_the_tasks_metrics_by_its_answers_on_the_given_examples():
    task: Any = WithBaselines()
    found = score_baselines(task, _texts("good", "bad"), _texts("bad", "good", "bad", "bad"))
    assert {name: values["accuracy"] for name, values in found.items()} == {"first": 0.25, "oracle": 1.0}


def test_metrics_that_need_probabilities_are_left_out_of_baselines():
    task: Any = WithBaselines()
    assert "confidence" not in score_baselines(task, _texts("good"), _texts("bad"))["first"]

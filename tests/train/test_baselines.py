"""Simple answers are scored by the task's own metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from chainft.config.joint import JointConfig
from chainft.config.parse import parse
from chainft.data.example import Example
from chainft.tasks.base import Metric, Scores, Together
from chainft.tasks.classify import Classify, ClassifyConfig
from chainft.tasks.joint import Joint
from chainft.text.inputs import text_example
from chainft.train.baselines import BEST, score_baselines


class NeedsScores(Metric):
    family: ClassVar[str] = "label"
    needs_scores: ClassVar[bool] = True

    def update(self, gold: Any, predicted: Any) -> None:
        raise AssertionError("a baseline has no scores")

    def compute(self) -> Scores:
        return Scores({"confidence": 1.0})


class WithBaselines:
    """Answers the first label of train, or the gold label."""

    has_own_data: ClassVar[bool] = True

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


def test_a_baseline_for_many_at_once_is_asked_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def answers(examples: Sequence[Example]) -> list[str]:
        asked.append(len(examples))
        return [str(one.values["label"]) for one in examples]

    monkeypatch.setattr(WithBaselines, "baselines", lambda self, train: {"oracle": Together(answers)})
    monkeypatch.setattr("chainft.train.baselines._AT_ONCE", 3)
    task: Any = WithBaselines()
    found = score_baselines(task, [], _texts("bad", "good", "bad", "bad"))
    assert found["oracle"]["accuracy"] == 1.0
    assert asked == [3, 1]


def test_metrics_that_need_probabilities_are_left_out_of_baselines():
    task: Any = WithBaselines()
    assert "confidence" not in score_baselines(task, _texts("good"), _texts("bad"))["first"]


def _joint() -> Joint:
    tasks = {"names": {"name": "ner"}, "mood": {"name": "classify"}}
    return Joint(parse(JointConfig, {"name": "joint", "tasks": tasks}))


def _rows(*rows: dict[str, Any]) -> list[Example]:
    return [text_example(row, f"line {number}") for number, row in enumerate(rows)]


def _tagged(words: str, tags: str) -> dict[str, Any]:
    return {"names": {"tokens": words.split(), "tags": tags.split()}}


def _felt(text: str, label: str) -> dict[str, Any]:
    return {"mood": {"text": text, "label": label}}


TRAIN = _rows(
    _tagged("anna met oslo", "B-PER O B-LOC"),
    _felt("fine day", "good"),
    _felt("fine", "good"),
    _felt("awful", "bad"),
)
NAMES = (_tagged("anna saw oslo", "B-PER O B-LOC"), _tagged("ben", "B-PER"))
MOODS = (_felt("fine", "good"), _felt("awful", "bad"))


def test_baselines_of_tasks_learned_together_answer_the_examples_of_their_own_task() -> None:
    """The lexicon finds 2 of 3 entities and nothing wrong: F1 0.8. `good` for both texts: F1 2/3 and 0, mean 1/3."""
    found = score_baselines(_joint(), TRAIN, _rows(*NAMES, *MOODS))
    assert found["lexicon"]["names/entity_f1"] == pytest.approx(0.8)
    assert found["majority"]["mood/f1_macro"] == pytest.approx(1 / 3)
    assert found["bag_of_words"]["mood/f1_macro"] == pytest.approx(1.0)
    assert not any(key.startswith("mood/") for key in found["lexicon"])


def test_the_best_baselines_of_all_tasks_have_a_mean_as_the_model_has() -> None:
    found = score_baselines(_joint(), TRAIN, _rows(*NAMES, *MOODS))
    assert list(found)[-1] == BEST
    assert found[BEST] == pytest.approx({"mean_score": 0.9, "names/entity_f1": 0.8, "mood/f1_macro": 1.0})


def test_the_mean_is_over_the_tasks_of_which_there_are_examples() -> None:
    found = score_baselines(_joint(), TRAIN, _rows(*NAMES))
    assert found[BEST] == pytest.approx({"mean_score": 0.8, "names/entity_f1": 0.8})


def test_a_task_without_baselines_leaves_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    task = _joint()
    monkeypatch.setattr(task.tasks["mood"], "baselines", lambda train: {})
    assert score_baselines(task, TRAIN, _rows(*NAMES, *MOODS))[BEST] == pytest.approx({"names/entity_f1": 0.8})

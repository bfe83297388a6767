"""What validation chooses: the temperature, the threshold of rejection, thresholds of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example as case
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from chainft.config.parse import dump, parse
from chainft.data.example import Example, Origin, Split
from chainft.errors import ConfigError, DataError
from chainft.metrics._out_of_scope import OutOfScope
from chainft.tasks._tuning import COOLEST, HOTTEST, best_rejection, best_temperature, best_threshold
from chainft.tasks.classify import Classify, ClassifyConfig

SCORES = st.floats(0.01, 1.0)


def make_task(**settings: Any) -> Any:
    return Classify(parse(ClassifyConfig, {"name": "classify", **settings}))


def example(label: Any, *, line: int = 1) -> Example:
    return Example({"text": "anna", "labels" if isinstance(label, list) else "label": label}, Origin("data.csv", line))


TRAIN = [example("good"), example("bad")]
MIXED: dict[Split, list[Example]] = {"train": TRAIN, "validation": [example("bad"), example("oos", line=7)]}


# The choices ----------------------------------------------------------------------------------------


def negative_log_likelihood(logits: np.ndarray, gold: np.ndarray, temperature: float) -> float:
    scaled = logits / temperature
    return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(gold)), gold]).mean())


def test_the_temperature_has_the_least_negative_log_likelihood_of_a_fine_grid() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(size=(400, 3)) * 4
    shares = np.exp(logits / 2.5) / np.exp(logits / 2.5).sum(1, keepdims=True)
    gold = np.array([random.choice(3, p=row) for row in shares])
    found = best_temperature(logits, gold)
    grid = np.linspace(0.5, 8, 2000)
    best = grid[int(np.argmin([negative_log_likelihood(logits, gold, one) for one in grid]))]
    assert found == pytest.approx(best, abs=0.01)
    assert found == pytest.approx(2.5, rel=0.15)


def test_the_temperature_does_not_depend_on_a_constant_in_the_logits_of_a_text() -> None:
    """So logarithms of probabilities serve as logits."""
    random = np.random.default_rng(1)
    logits, gold = random.normal(size=(50, 4)) * 3, random.integers(4, size=50)
    assert best_temperature(logits + random.normal(size=(50, 1)), gold) == pytest.approx(
        best_temperature(logits, gold)
    )


def test_where_no_temperature_is_the_best_it_stays_one_or_within_its_bounds() -> None:
    """All texts right, none at all, all wrong, and right by a hair but for one in a hundred thousand."""
    logits, gold = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    assert best_temperature(logits, gold) == 1.0
    assert best_temperature(np.zeros((0, 2)), np.zeros(0, int)) == 1.0
    assert best_temperature(-logits, gold) == pytest.approx(HOTTEST)
    many = np.array([[0.001, 0.0]] * 100_000)
    assert best_temperature(many, np.array([1] + [0] * 99_999)) == pytest.approx(COOLEST)


@case([(1.0, "foreign"), (1.0, "foreign"), (0.5, "right")])
@given(st.lists(st.tuples(SCORES, st.sampled_from(["right", "wrong", "foreign"])), min_size=1, max_size=30))
def test_no_threshold_of_rejection_has_a_better_accuracy(texts: list[tuple[float, str]]) -> None:
    confidence = np.array([score for score, _ in texts])
    right, foreign = (np.array([kind == name for _, kind in texts]) for name in ("right", "foreign"))

    def accuracy(threshold: float) -> int:
        return int((foreign & (confidence < threshold)).sum() + (right & (confidence >= threshold)).sum())

    chosen = best_rejection(confidence, right=right, out_of_scope=foreign)
    assert 0 < chosen < 1
    assert accuracy(chosen) == max(map(accuracy, [*confidence[confidence < 1], 1e-6, np.nextafter(1.0, 0.0)]))


@given(st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=30))
def test_no_threshold_of_a_label_has_a_better_f1(texts: list[tuple[float, bool]]) -> None:
    scores, gold = np.array([score for score, _ in texts]), np.array([yes for _, yes in texts])

    def f1(threshold: float) -> float:
        return float(2 * (gold & (scores >= threshold)).sum() / ((scores >= threshold).sum() + gold.sum()))

    chosen = best_threshold(scores, gold)
    if not gold.any():
        assert chosen is None
        return
    assert chosen is not None and 0 < chosen < 1
    assert f1(chosen) == pytest.approx(max(f1(one) for one in [*scores, 1e-6]))


# In the task ----------------------------------------------------------------------------------------


def decoded(task: Any, golds: Sequence[Any], logits: Sequence[Sequence[float]]) -> list[tuple[Example, Any]]:
    rows = [(example(gold), np.array(row)) for gold, row in zip(golds, logits, strict=True)]
    return [(one, task.decode(one, [{}], [row])) for one, row in rows]


def test_temperature_and_rejection_are_fitted_in_turn_and_predictions_follow() -> None:
    task = make_task(temperature="auto", reject="auto")
    task.learn_labels(MIXED, unseen="error")
    assert task.labels.names == ("bad", "good")
    golds = ["bad", "good", "good", "bad", "oos", "oos"]
    logits = [[9, 0], [0, 8], [1, 8], [0, 8], [1, 0], [0, 1.5]]
    pairs = decoded(task, golds, logits)
    assert {answer["label"] for _, answer in pairs} == {"bad", "good"}
    assert task.needs_tuning
    task.config = task.tuned(iter(pairs))
    assert not task.needs_tuning
    assert task.config.temperature == pytest.approx(
        best_temperature(np.array(logits[:4], float), np.array([0, 1, 1, 0])), rel=1e-6
    )
    labels = [answer["label"] for _, answer in decoded(task, golds, logits)]
    assert labels == ["bad", "good", "good", "good", "oos", "oos"]
    assert parse(ClassifyConfig, dump(task.config), at="task") == task.config


def test_a_fixed_temperature_flattens_probabilities_and_keeps_labels() -> None:
    plain, warm = make_task(), make_task(temperature=2.0)
    for task in (plain, warm):
        task.learn_labels({"train": TRAIN}, unseen="error")
    ((_, before),), ((_, after),) = (decoded(task, ["good"], [[0.0, 2.0]]) for task in (plain, warm))
    assert before["label"] == after["label"] == "good"
    assert before["score"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert after["score"] == pytest.approx(1 / (1 + np.exp(-1)))


def test_a_rejected_text_gets_the_label_and_keeps_its_probabilities() -> None:
    task = make_task(reject=0.9, reject_label="none of these")
    task.learn_labels({"train": TRAIN}, unseen="error")
    ((_, sure), (_, unsure)) = decoded(task, ["good", "good"], [[0, 5], [0, 1]])
    assert (sure["label"], unsure["label"]) == ("good", "none of these")
    assert unsure["score"] == max(unsure["scores"].values()) and set(unsure["scores"]) == {"good", "bad"}


def test_only_the_label_of_rejected_texts_may_be_unknown_to_training(tiny_encoder: Path) -> None:
    with pytest.raises(DataError, match="'oos' is in validation"):
        make_task().learn_labels(MIXED, unseen="error")
    task = make_task(reject=0.5)
    with pytest.raises(DataError, match="'other' is in validation"):
        task.learn_labels({**MIXED, "validation": [example("oos"), example("other")]}, unseen="error")
    task.learn_labels(MIXED, unseen="error")
    task.prepare(AutoTokenizer.from_pretrained(tiny_encoder), max_length=16)
    assert task.encode(example("oos"))[0]["labels"].tolist() == [-100]  # Left out of the loss.
    assert any(isinstance(metric, OutOfScope) for metric in task.metrics())


def test_training_texts_out_of_scope_make_a_class_as_always() -> None:
    task = make_task(reject=0.5)
    task.learn_labels({"train": [*TRAIN, example("oos")]}, unseen="error")
    assert task.labels.names == ("bad", "good", "oos")


def test_rejection_by_validation_without_such_texts_is_an_error_of_the_contract() -> None:
    task = make_task(reject="auto")
    splits: dict[Split, list[Example]] = {"train": TRAIN, "validation": [example("bad")]}
    task.learn_labels(splits, unseen="error")
    (finding,) = task.contract(splits)
    assert (finding.slug, finding.severity) == ("no-out-of-scope", "error")
    assert not list(task.contract(MIXED))


def test_thresholds_are_chosen_for_each_label_and_decide() -> None:
    task = make_task(multi_label=True, threshold="auto")
    task.learn_labels({"train": [example(["a", "b", "c"])]}, unseen="error")
    golds = [["a"], ["a"], ["b"], []]
    logits = [[-1.0, -3, 0], [-1.2, 2, 0], [-3, 3, 0], [-4, 2, 0]]
    pairs = decoded(task, golds, logits)
    assert [answer["labels"] for _, answer in pairs] == [["c"], ["b", "c"], ["b", "c"], ["b", "c"]]
    task.config = task.tuned(iter(pairs))
    assert task.config.threshold["c"] == 0.5  # No text has it.
    assert [answer["labels"] for _, answer in decoded(task, golds, logits)] == [
        ["a", "c"],
        ["a", "c"],
        ["b", "c"],
        ["c"],
    ]
    assert parse(ClassifyConfig, dump(task.config), at="task") == task.config


def test_without_validation_the_defaults_are_taken() -> None:
    multi, single = make_task(multi_label=True, threshold="auto"), make_task(temperature="auto")
    multi.learn_labels({"train": [example(["a", "b"])]}, unseen="error")
    single.learn_labels({"train": TRAIN}, unseen="error")
    assert multi.tuned(()).threshold == {"a": 0.5, "b": 0.5}
    assert single.tuned(()) == replace(single.config, temperature=1.0)


def test_a_threshold_for_no_label_is_refused(tiny_encoder: Path) -> None:
    task = make_task(multi_label=True, threshold={"pepole": 0.3})
    task.learn_labels({"train": [example(["people"])]}, unseen="error")
    with pytest.raises(ConfigError) as caught:
        task.prepare(AutoTokenizer.from_pretrained(tiny_encoder), max_length=16)
    (problem,) = caught.value.problems
    assert problem.key == "task.threshold.pepole"
    assert "did you mean 'people'?" in (problem.help or "")

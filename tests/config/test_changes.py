"""What may differ when a run goes on."""

from __future__ import annotations

import pytest

from chainft.config.changes import check_changes, check_evaluated
from chainft.config.compose import compose
from chainft.config.run import RunConfig
from chainft.errors import ConfigError

OLD = ["task=toy", "data.name=toy", "data.train=a.toy", "run=x"]


def resumed(*words: str) -> RunConfig:
    return compose([*OLD, "resume=true", *words]).config


def test_one_answer_accepts_all_changes() -> None:
    """fault 8: also those that were accepted before; the list replaces the one that was given."""
    old = compose(OLD).config
    with pytest.raises(ConfigError) as caught:
        check_changes(old, resumed("optimizer.lr=1", "train.max_steps=9", "allow_change=[optimizer.lr]"))
    (problem,) = caught.value.problems
    assert problem.key == "train.max_steps"
    answer = (problem.help or "").split("'")[1]
    check_changes(old, resumed("optimizer.lr=1", "train.max_steps=9", answer))


def test_what_changes_no_number_is_free() -> None:
    check_changes(compose(OLD).config, resumed("train.logging_steps=3", "report.enabled=false"))


@pytest.mark.parametrize("word", ["seed=3", "model.max_length=9", "task.scheme=iob2", "train.batch_size=1"])
def test_what_makes_another_training_is_refused_though_it_is_allowed(word: str) -> None:
    """fault 8"""
    with pytest.raises(ConfigError, match=word.partition("=")[0]):
        check_changes(compose(OLD).config, resumed(word, f"allow_change=[{word.partition('=')[0]}]"))


@pytest.mark.parametrize("word", ["optimizer.lr=1", "report.enabled=false", "evaluation.patience=3", "seed=3"])
def test_what_evaluating_would_ignore_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=f"{word.partition('=')[0]} = .* has no effect"):
        check_evaluated(compose(OLD).config, compose([*OLD, word]).config)


JOINT = [
    "task=joint",
    "task.tasks={a: {name: ner}, b: {name: ner}}",
    "data=joint",
    "data.tasks={a: {train: a.conll}, b: {train: b.conll}}",
]


@pytest.mark.parametrize("word", ["task.tasks.a.name=classify", "task.sampling=round_robin"])
def test_what_evaluating_several_tasks_would_ignore_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=f"{word.partition('=')[0]} = .* has no effect"):
        check_evaluated(compose(JOINT).config, compose([*JOINT, word]).config)
    check_evaluated(compose(JOINT).config, compose([*JOINT, "task.weights.a=2"]).config)


@pytest.mark.parametrize(
    "word", ["data.test=b.toy", "task.scheme=iob2", "evaluation.batch_size=3", "train.device=cpu"]
)
def test_what_evaluating_reads_may_differ(word: str) -> None:
    check_evaluated(compose(OLD).config, compose([*OLD, word]).config)


def test_the_temperature_of_probabilities_may_differ_in_an_evaluation() -> None:
    """Unlike that of several tasks, which says how often each is drawn in training."""
    words = ["task=classify", "data=csv", "data.train=a.csv"]
    check_evaluated(compose(words).config, compose([*words, "task.temperature=2.0"]).config)

"""Numbers for texts and pairs: targets, loss, predictions, and what is wrong with data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from chainft.config.parse import dump, parse
from chainft.config.run import ModelConfig
from chainft.data.batching import collate
from chainft.data.example import Example, Origin
from chainft.errors import DataError
from chainft.models.load import load_model
from chainft.tasks.classify import Classify, ClassifyConfig, Regression
from chainft.text.numbers import read_number

LONG = "anna visited the old city with a good company and met david in paris yesterday " * 3


def make_task(**settings: Any) -> Any:
    return Classify(parse(ClassifyConfig, {"name": "classify", "regression": True, **settings}))


def example(text: str, score: Any = None, *, line: int = 1, **values: Any) -> Example:
    gold = {} if score is None else {"score": score}
    return Example({"text": text, **gold, **values}, Origin("data.csv", line))


TRAIN = [example("anna likes paris", "10"), example("a bad company", 20), example("awful house", 60.0)]
MEAN, STD = 30.0, float(np.std([10, 20, 60]))


@pytest.fixture
def task(tiny_encoder: Path) -> Any:
    return prepared(tiny_encoder, make_task())


def prepared(folder: Path, task: Any, *, max_length: int = 64) -> Any:
    task.learn_labels({"train": TRAIN}, unseen="error")
    task.prepare(AutoTokenizer.from_pretrained(folder), max_length=max_length)
    return task


def rows_of(task: Any, examples: Sequence[Example]) -> list[Any]:
    return [window for one in examples for window in task.encode(one)]


def test_numbers_are_standardised_by_train_and_never_become_classes(task: Any) -> None:
    assert isinstance(task, Regression)
    assert task.labels.names == ()
    assert (task.config.target_mean, task.config.target_std) == (MEAN, pytest.approx(STD))
    targets = [float(row["labels"][0]) for row in rows_of(task, TRAIN)]
    assert targets == pytest.approx([(10 - MEAN) / STD, (20 - MEAN) / STD, (60 - MEAN) / STD])
    assert parse(ClassifyConfig, dump(task.config), at="task") == task.config
    assert not task.needs_tuning


def test_a_given_scale_is_taken(tiny_encoder: Path) -> None:
    task = prepared(tiny_encoder, make_task(target_mean=0, target_std=1))
    assert [float(row["labels"][0]) for row in rows_of(task, TRAIN)] == [10.0, 20.0, 60.0]


def test_predictions_are_in_the_unit_of_the_data_and_average_windows(task: Any) -> None:
    one = task.read_input({"text": "anna", "text_pair": "ben"}, where="in:1")
    prediction = task.decode(one, [{}, {}], [np.array([1.0]), np.array([0.0])])
    assert prediction == {"text": "anna", "text_pair": "ben", "score": pytest.approx(MEAN + STD / 2)}
    assert json.loads(json.dumps(prediction)) == prediction


def test_the_loss_is_the_mean_squared_error_over_texts_however_many_windows(tiny_encoder: Path) -> None:
    task = prepared(tiny_encoder, make_task(), max_length=16)
    model = load_model(ModelConfig(path=str(tiny_encoder)), task, seed=0).model.eval()
    assert model.config.num_labels == 1
    assert model.config.id2label == {0: "score"}
    examples = [*TRAIN[:2], example(LONG, 50)]
    windows = [task.encode(one) for one in examples]
    assert len(windows[2]) > 2
    rows = [row for several in windows for row in several]
    batch = collate(rows, task, range(len(rows)))
    with torch.no_grad():
        output = model(**batch.inputs)
        total, count = float(task.loss(output, batch)), task.num_targets(batch)
    outputs = np.split(output.logits[:, 0].numpy(), np.cumsum([len(one) for one in windows])[:-1])
    golds = [(gold - MEAN) / STD for gold in (10, 20, 50)]
    wanted = np.mean([np.mean((given - gold) ** 2) for given, gold in zip(outputs, golds, strict=True)])
    assert count == pytest.approx(3.0)
    assert total / count == pytest.approx(float(wanted), rel=1e-5)


def test_padding_does_not_change_the_loss(task: Any, tiny_encoder: Path) -> None:
    model = load_model(ModelConfig(path=str(tiny_encoder)), task, seed=0).model.eval()
    rows = rows_of(task, [*TRAIN, example("the old city " * 10, 5)])
    with torch.no_grad():
        together, *alone = (
            float(task.loss(model(**batch.inputs), batch))
            for batch in (collate(part, task, range(len(part))) for part in [rows, *([row] for row in rows)])
        )
    assert together == pytest.approx(sum(alone), rel=1e-5)


@pytest.mark.parametrize("score", ["high", "4,5", True, float("inf"), [1.0], "", "nan"])
def test_what_is_no_number_is_a_problem_at_its_place(score: object) -> None:
    (problem,) = make_task().validate(example("anna", score, line=9))
    assert (problem.slug, problem.where) == ("not-a-number", "data.csv:9")


def test_equal_scores_everywhere_are_refused_at_the_first() -> None:
    with pytest.raises(DataError, match="the same score 3") as caught:
        make_task().learn_labels({"train": [example("a", 3, line=4), example("b", "3.0", line=5)]}, unseen="error")
    assert caught.value.problems[0].where == "data.csv:4"


def test_mistakes_are_sorted_by_their_distance(task: Any) -> None:
    mistake = task.mistake(TRAIN[0], {"score": 12.5})
    assert (mistake.badness, mistake.gold, mistake.predicted) == (2.5, "10", "12.5")
    assert task.mistake(TRAIN[0], {"score": 10.00001}) is None


def test_baselines_answer_by_the_words_of_train_alone() -> None:
    task = make_task()
    train = [
        example(f"{word} city", score) for word, score in (("good", 5), ("bad", 1), ("good old", 5), ("old bad", 1))
    ]
    found = task.baselines(train)
    assert found.keys() == {"mean", "bag_of_words"}
    assert found["mean"](train[0]) == 3.0
    assert found["bag_of_words"](example("good river")) > 3.5 > found["bag_of_words"](example("bad river"))


def test_pairs_have_a_baseline_by_the_words_that_both_have() -> None:
    pairs = [("a good city", "a good city", 5), ("a good city", "fine river", 0), ("old house", "old person", 2)]
    train = [example(first, score, text_pair=second) for first, second, score in pairs]
    overlap = make_task().baselines(train)["word_overlap"]
    same, other = (example("fine house", text_pair=text) for text in ("fine house", "good person"))
    assert overlap(same) > 4
    assert overlap(other) < 1


def test_texts_are_read_as_numbers_strictly() -> None:
    assert [read_number(one) for one in ("1e3", "-2", 7, "1_0 0", "0x1", object())] == [
        1000.0,
        -2.0,
        7.0,
        None,
        None,
        None,
    ]

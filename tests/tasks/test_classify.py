"""Classification: labels, windows, losses and predictions of single and several labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoTokenizer, PreTrainedModel

from chainft.config.parse import parse
from chainft.config.run import ModelConfig
from chainft.data.batching import collate
from chainft.data.example import Example, Origin, Split
from chainft.errors import ConfigError, DataError
from chainft.models.load import load_model
from chainft.registry import find
from chainft.tasks.base import Arrays
from chainft.tasks.classify import Classify, ClassifyConfig, MultiLabel, SingleLabel

LONG = "anna visited the old city with a good company and met david in paris yesterday " * 3


def make_task(**settings: Any) -> Classify:
    return Classify(parse(ClassifyConfig, {"name": "classify", **settings}))


def example(text: str, label: Any = None, *, line: int = 1, **values: Any) -> Example:
    gold = {} if label is None else {"labels" if isinstance(label, list) else "label": label}
    return Example({"text": text, **gold, **values}, Origin("data.csv", line))


def prepared(folder: Path, task: Classify, train: Sequence[Example], *, max_length: int = 64) -> Classify:
    task.learn_labels({"train": train}, unseen="error")
    task.prepare(AutoTokenizer.from_pretrained(folder), max_length=max_length)
    return task


TRAIN = [example("anna likes paris", "good"), example("a bad company", "bad"), example("awful house", "bad")]
TOPICS = [example("anna likes paris", ["people", "places"]), example("nothing", []), example("oslo", ["places"])]


@pytest.fixture
def single(tiny_encoder: Path) -> Classify:
    return prepared(tiny_encoder, make_task(), TRAIN)


@pytest.fixture
def multi(tiny_encoder: Path) -> Classify:
    return prepared(tiny_encoder, make_task(multi_label=True), TOPICS)


def model_of(folder: Path, task: Classify) -> PreTrainedModel:
    return load_model(ModelConfig(path=str(folder)), task, seed=0).model.eval()


def loss_of(task: Classify, model: PreTrainedModel, rows: Sequence[Arrays]) -> tuple[float, float]:
    batch = collate(rows, task, range(len(rows)))
    with torch.no_grad():
        return float(task.loss(model(**batch.inputs), batch)), task.num_targets(batch)


# Config ---------------------------------------------------------------------------------------------


def test_the_plugin_is_found_and_multi_label_chooses_the_class() -> None:
    assert find("task", "classify", key="task.name") is Classify
    assert isinstance(make_task(), SingleLabel)
    assert isinstance(make_task(multi_label=True), MultiLabel)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"threshold": 0.3}, "task.threshold"),
        ({"multi_label": True, "temperature": "auto"}, "task.temperature"),
        ({"multi_label": True, "reject": 0.5}, "task.reject"),
        ({"reject_label": "other"}, "task.reject_label"),
        ({"target_std": 2.0}, "task.target_std"),
        ({"regression": True, "multi_label": True}, "task.multi_label"),
        ({"regression": True, "class_weights": "balanced"}, "task.class_weights"),
        ({"regression": True, "label_smoothing": 0.1}, "task.label_smoothing"),
        ({"regression": True, "threshold": "auto"}, "task.threshold"),
        ({"regression": True, "reject": "auto"}, "task.reject"),
        ({"regression": True, "metrics": ["classification"]}, "task.metrics"),
        ({"overflow": "error", "window_overlap": 8}, "task.window_overlap"),
        ({"metrics": ["text"]}, "task.metrics"),
        ({"metrics": ["nonsense"]}, "task.metrics"),
    ],
)
def test_settings_without_effect_are_refused(settings: Mapping[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_task(**settings)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_an_overlap_above_half_a_window_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="window_overlap = 20"):
        prepared(tiny_encoder, make_task(window_overlap=20), TRAIN, max_length=32)


def test_a_weight_for_no_label_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        prepared(tiny_encoder, make_task(class_weights={"goood": 2}), TRAIN)
    assert "did you mean 'good'?" in (caught.value.problems[0].help or "")


# Data -----------------------------------------------------------------------------------------------


def test_labels_are_sorted_by_name_and_counted(single: Classify) -> None:
    assert single.labels.names == ("bad", "good")
    assert single.labels.counts == {"bad": 2, "good": 1}
    assert single.stratum(TRAIN[0]) == "good"


def test_a_list_in_single_label_mode_names_the_setting() -> None:
    (problem,) = make_task().validate(Example({"text": "a", "label": ["x", "y"]}, Origin("data.jsonl", 7)))
    assert problem.where == "data.jsonl:7"
    assert "task.multi_label=true" in (problem.help or "")


@pytest.mark.parametrize("label", ["", "  ", 3])
def test_a_label_without_a_name_is_a_problem(label: object) -> None:
    problems = list(make_task().validate(example("a", label)))
    assert [problem.slug for problem in problems] == ["no-label"]
    assert "data.on_error=skip" in (problems[0].help or "")


def test_sound_examples_have_no_problems(single: Classify, multi: Classify) -> None:
    assert not [problem for one in TRAIN for problem in single.validate(one)]
    assert not [problem for one in TOPICS for problem in multi.validate(one)]


def test_a_label_only_in_validation_is_refused_with_place_count_and_nearest() -> None:
    validation = [example("x", "bad"), example("y", "goood", line=5), example("z", "goood", line=9)]
    splits: dict[Split, list[Example]] = {"train": TRAIN, "validation": validation}
    with pytest.raises(DataError) as caught:
        make_task().learn_labels(splits, unseen="error")
    (problem,) = caught.value.problems
    assert problem.where == "data.csv:5"
    for word in ("goood", "validation", "2 times"):
        assert word in problem.message
    assert "did you mean 'good'?" in (problem.help or "")
    task = make_task()
    task.learn_labels(splits, unseen="allow")
    assert task.labels.names == ("bad", "good", "goood")


def test_no_label_at_all_is_an_error_in_the_contract() -> None:
    """fault 15: texts without any labels."""
    task = make_task(multi_label=True)
    train = [example("a", [])]
    task.learn_labels({"train": train}, unseen="error")
    assert [finding.severity for finding in task.contract({"train": train})] == ["error"]


# Features -------------------------------------------------------------------------------------------


def test_an_over_long_text_becomes_windows_that_hold_all_of_it(tiny_encoder: Path) -> None:
    """fault 13: no silent loss."""
    task = prepared(tiny_encoder, make_task(), TRAIN, max_length=16)
    windows = task.encode(example(LONG, "good"))
    assert all(len(window["input_ids"]) <= 16 for window in windows)
    whole = task.tokenizer(LONG, add_special_tokens=False)["input_ids"]
    overlap = int(0.25 * 14)
    joined = list(windows[0]["input_ids"][1:-1])
    for window in windows[1:-1]:
        joined += list(window["input_ids"][1 + overlap : -1])
    rest = len(whole) - len(joined)
    assert joined + list(windows[-1]["input_ids"][-1 - rest : -1]) == whole
    assert sum(float(window["window_weight"][0]) for window in windows) == pytest.approx(1.0)
    assert all(window["labels"].tolist() == [1] for window in windows)


def test_overflow_error_and_truncate_do_what_they_say(tiny_encoder: Path) -> None:
    """fault 13: the cut is chosen by the user and counted."""
    refusing = prepared(tiny_encoder, make_task(overflow="error"), TRAIN, max_length=16)
    with pytest.raises(DataError, match=r"has \d+ tokens, the most is 16") as caught:
        refusing.encode(example(LONG, "good", line=3))
    assert caught.value.problems[0].where == "data.csv:3"
    cutting = prepared(tiny_encoder, make_task(overflow="truncate"), TRAIN, max_length=16)
    (window,) = cutting.encode(example(LONG, "good"))
    assert len(window["input_ids"]) == 16
    (finding,) = cutting.contract({"train": [*TRAIN, example(LONG, "good", line=4)]})
    assert (finding.slug, finding.count, finding.where) == ("cut-text", 1, "data.csv:4")


def test_a_pair_is_encoded_as_the_tokenizer_does_it(single: Classify) -> None:
    single.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # As BertTokenizer has it.
    (window,) = single.encode(example("anna likes paris", "good", text_pair="a good city"))
    wanted = single.tokenizer("anna likes paris", "a good city")
    assert window["input_ids"].tolist() == wanted["input_ids"]
    assert window["token_type_ids"].tolist() == wanted["token_type_ids"]


def test_the_longer_text_of_a_pair_is_windowed(tiny_encoder: Path) -> None:
    task = prepared(tiny_encoder, make_task(), TRAIN, max_length=32)
    for window in task.encode(example("a good city", "good", text_pair=LONG)):
        assert window["input_ids"].tolist()[:5] == task.tokenizer("a good city")["input_ids"]
    with pytest.raises(DataError, match="pair of texts"):
        task.encode(example(LONG, "good", text_pair=LONG))


def test_encoding_leaves_the_tokenizer_as_it_was(tiny_encoder: Path) -> None:
    """The key of the tokenised store depends on the tokenizer's state."""
    task = prepared(tiny_encoder, make_task(), TRAIN, max_length=16)
    before = task.tokenizer.backend_tokenizer.to_str()
    task.encode(example(LONG, "good"))
    assert task.tokenizer.backend_tokenizer.to_str() == before


# Loss -----------------------------------------------------------------------------------------------


def test_the_loss_is_torch_s_weighted_smoothed_mean(tiny_encoder: Path) -> None:
    task = prepared(tiny_encoder, make_task(class_weights={"good": 3.0}, label_smoothing=0.1), TRAIN)
    model = model_of(tiny_encoder, task)
    rows = [window for one in TRAIN for window in task.encode(one)]
    batch = collate(rows, task, range(3))
    with torch.no_grad():
        logits = model(**batch.inputs).logits
    wanted = functional.cross_entropy(
        logits, torch.tensor([1, 0, 0]), weight=torch.tensor([1.0, 3.0]), label_smoothing=0.1
    )
    total, count = loss_of(task, model, rows)
    assert count == pytest.approx(5.0)
    assert total / count == pytest.approx(float(wanted), rel=1e-5)


def test_balanced_weights_give_each_label_the_same_share(tiny_encoder: Path) -> None:
    task = prepared(tiny_encoder, make_task(class_weights="balanced"), TRAIN)
    rows = [window for one in TRAIN for window in task.encode(one)]
    batch = collate(rows, task, range(3))
    assert task.num_targets(batch) == pytest.approx(2 * 3 / (2 * 2) + 3 / (2 * 1))


def test_the_windows_of_a_text_weigh_as_one_text(tiny_encoder: Path) -> None:
    task = prepared(tiny_encoder, make_task(), TRAIN, max_length=16)
    model = model_of(tiny_encoder, task)
    windows = task.encode(example(LONG, "good"))
    assert len(windows) > 2
    total, count = loss_of(task, model, windows)
    each = [loss_of(task, model, [window])[0] for window in windows]
    assert count == pytest.approx(1.0)
    assert total == pytest.approx(sum(each), rel=1e-5)
    assert total < max(each) * len(windows)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_padding_does_not_change_loss_or_logits(kind: str, tiny_encoder: Path, request: pytest.FixtureRequest) -> None:
    task: Classify = request.getfixturevalue(kind)
    model = model_of(tiny_encoder, task)
    data = TRAIN if kind == "single" else TOPICS
    rows = [window for one in data for window in task.encode(one)]
    rows += task.encode(Example({**data[0].values, "text": "the old city " * 10}, data[0].origin))
    together = loss_of(task, model, rows)
    alone = [loss_of(task, model, [row]) for row in rows]
    assert together[0] == pytest.approx(sum(loss for loss, _ in alone), rel=1e-5)
    assert together[1] == pytest.approx(sum(count for _, count in alone))


def test_the_multi_label_loss_is_the_mean_over_decisions(multi: Classify, tiny_encoder: Path) -> None:
    model = model_of(tiny_encoder, multi)
    rows = [window for one in TOPICS for window in multi.encode(one)]
    batch = collate(rows, multi, range(3))
    with torch.no_grad():
        logits = model(**batch.inputs).logits
    targets = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    total, count = loss_of(multi, model, rows)
    wanted = functional.binary_cross_entropy_with_logits(logits, targets)
    assert total / count == pytest.approx(float(wanted), rel=1e-5)


def test_multi_label_weights_count_where_the_text_has_the_label(tiny_encoder: Path) -> None:
    """Smoothing of 0.2 makes of yes and no the targets 0.9 and 0.1."""
    settings = {"multi_label": True, "class_weights": {"people": 3.0}, "label_smoothing": 0.2}
    task = prepared(tiny_encoder, make_task(**settings), TOPICS)
    model = model_of(tiny_encoder, task)
    rows = [window for one in TOPICS for window in task.encode(one)]
    with torch.no_grad():
        logits = model(**collate(rows, task, range(3)).inputs).logits
    targets = torch.tensor([[0.9, 0.9], [0.1, 0.1], [0.1, 0.9]])
    weights = torch.tensor([[3.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    wanted = functional.binary_cross_entropy_with_logits(logits, targets, weight=weights, reduction="sum")
    total, count = loss_of(task, model, rows)
    assert count == pytest.approx(8.0)
    assert total == pytest.approx(float(wanted), rel=1e-5)


def test_balanced_multi_label_weights_favour_the_rare_label(tiny_encoder: Path) -> None:
    """`people` once and `places` twice among 3 labels: weights 3 / (2 * 1) and 3 / (2 * 2), beside 3 plain noes."""
    task = prepared(tiny_encoder, make_task(multi_label=True, class_weights="balanced"), TOPICS)
    rows = [window for one in TOPICS for window in task.encode(one)]
    assert task.num_targets(collate(rows, task, range(3))) == pytest.approx(1.5 + 2 * 0.75 + 3)


# Prediction -----------------------------------------------------------------------------------------


def test_a_prediction_averages_the_windows_and_is_plain_json(single: Classify) -> None:
    one = single.read_input("anna", where="<stdin>:4")
    assert one.where() == "<stdin>:4"
    prediction = single.decode(one, [{}, {}], [np.array([0.0, 3.0]), np.array([0.0, -1.0])])
    assert prediction["label"] == "good"
    assert prediction["score"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert sum(prediction["scores"].values()) == pytest.approx(1.0)
    assert json.loads(json.dumps(prediction)) == prediction


def test_several_labels_are_those_from_the_threshold(tiny_encoder: Path) -> None:
    task = prepared(tiny_encoder, make_task(multi_label=True, threshold=0.9), TOPICS)
    one = task.read_input({"text": "anna"}, where="in.jsonl:1")
    prediction = task.decode(one, [{}], [np.array([1000.0, 0.0])])
    assert prediction["labels"] == ["people"]
    assert prediction["scores"] == {"people": 1.0, "places": 0.5}


def test_extreme_logits_are_finite(single: Classify) -> None:
    one = single.read_input("anna", where="x:1")
    prediction = single.decode(one, [{}], [np.array([-1e4, 1e4])])
    assert prediction["scores"] == {"good": 1.0, "bad": 0.0}


@pytest.mark.parametrize("value", [{}, {"txt": "a"}, {"text": 3}, {"text": "a", "text_pair": 3}, "\ud800"])
def test_unreadable_inputs_are_refused_at_their_place(single: Classify, value: Any) -> None:
    with pytest.raises(DataError) as caught:
        single.read_input(value, where="in.jsonl:8")
    assert (caught.value.problems[0].where or "").startswith("in.jsonl:8")


def test_mistakes_are_sorted_by_the_confidence_in_the_wrong_label(single: Classify, multi: Classify) -> None:
    wrong = {"label": "bad", "score": 0.9, "scores": {"bad": 0.9, "good": 0.1}}
    mistake = single.mistake(TRAIN[0], wrong)
    assert mistake and (mistake.badness, mistake.gold, mistake.predicted) == (0.9, "good", "bad")
    assert single.mistake(TRAIN[1], wrong) is None
    some = {"labels": ["people"], "scores": {"people": 0.8, "places": 0.3}}
    several = multi.mistake(TOPICS[1], some)
    assert several and (several.badness, several.gold) == (pytest.approx(0.8), "(none)")
    assert multi.mistake(TOPICS[0], {**some, "labels": ["places", "people"]}) is None


@pytest.mark.parametrize(("kind", "data"), [("single", TRAIN), ("multi", TOPICS)])
def test_a_model_learns_its_training_texts(
    kind: str, data: Sequence[Example], tiny_encoder: Path, request: pytest.FixtureRequest
) -> None:
    task: Classify = request.getfixturevalue(kind)
    model = model_of(tiny_encoder, task).train()
    rows = [window for one in data for window in task.encode(one)]
    batch = collate(rows, task, range(len(rows)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(40):
        loss = task.loss(model(**batch.inputs), batch) / task.num_targets(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        result = task.infer(model.eval(), batch)
    metric = next(one for one in task.metrics() if not one.needs_scores)
    for one, raw in zip(data, result.raw, strict=True):
        metric.update(task.gold(one), task.predicted(task.decode(one, [], [raw])))
    values = metric.compute().values
    assert values[task.main_metric] == 1.0


@pytest.mark.parametrize("overflow", ["window", "truncate"])
def test_the_length_of_a_text_is_that_of_the_whole(overflow: str, tiny_encoder: Path) -> None:
    task = prepared(tiny_encoder, make_task(overflow=overflow), TRAIN, max_length=10)
    assert task.num_tokens(example("anna likes " * 10, "good")) == 22


@pytest.mark.parametrize("settings", [{}, {"class_weights": {"good": 3.0}}])
def test_a_label_that_the_model_does_not_have_is_left_out_of_the_loss(
    settings: Mapping[str, Any], tiny_encoder: Path
) -> None:
    task = prepared(tiny_encoder, make_task(**settings), TRAIN)
    model = model_of(tiny_encoder, task)
    known = [window for one in TRAIN for window in task.encode(one)]
    unknown = task.encode(example("near the river", "odd"))
    assert loss_of(task, model, [*known, *unknown]) == pytest.approx(loss_of(task, model, known), rel=1e-5)

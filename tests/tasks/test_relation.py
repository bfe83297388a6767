"""The relation task: markers, cuts, labels, prediction, and a whole run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from chainft.config.compose import compose
from chainft.data.batching import collate
from chainft.data.example import Example, Origin
from chainft.errors import ConfigError, DataError
from chainft.infer.predict import predict
from chainft.tasks.base import Labels, merge_scores
from chainft.tasks.relation import Relation, RelationConfig
from chainft.train.session import run_training
from tests.clean_process import clean_process

TEXT = "<e1>anna</e1> visited <e2>old oslo</e2> yesterday"


def row(text: str = TEXT, label: str | None = None, **values: Any) -> Example:
    return Example({"text": text, **({"label": label} if label else {}), **values}, Origin("train.tsv", 7))


def ready(folder: Path, *, max_length: int = 64, **settings: Any) -> Relation:
    task = Relation(RelationConfig(**settings))
    task.labels = Labels(("Other", "likes(e1,e2)", "likes(e2,e1)"), {"Other": 2, "likes(e1,e2)": 1, "likes(e2,e1)": 1})
    task.prepare(AutoTokenizer.from_pretrained(folder), max_length=max_length)
    return task


def decoded(task: Relation, example: Example) -> str:
    return str(task.tokenizer.decode(task.encode(example)[0]["input_ids"]))


def test_the_model_reads_the_text_with_markers(tiny_encoder: Path) -> None:
    """The tiny tokenizer knows neither @ nor #: markers are [UNK]."""
    assert decoded(ready(tiny_encoder), row()) == "[CLS] [UNK] anna [UNK] visited [UNK] old oslo [UNK] yesterday [SEP]"


@pytest.mark.parametrize("max_length", range(11, 30))
def test_entities_are_kept_however_long_the_text(tiny_encoder: Path, max_length: int) -> None:
    text = "the " * 20 + "<e1>anna</e1>" + " and" * 20 + " <e2>old oslo</e2>" + " today" * 20
    task = ready(tiny_encoder, max_length=max_length)
    (feature,) = task.encode(row(text))
    assert len(feature["input_ids"]) == max_length
    assert "[UNK] anna [UNK]" in decoded(task, row(text)) and "[UNK] old oslo [UNK]" in decoded(task, row(text))
    assert task.num_tokens(row(text)) == 20 * 3 + 3 + 4 + 2


def test_entities_that_do_not_fit_are_refused_at_their_row(tiny_encoder: Path) -> None:
    with pytest.raises(DataError) as caught:
        ready(tiny_encoder, max_length=8).encode(row())
    assert caught.value.problems[0].where == "train.tsv:7"


def test_the_loss_counts_pairs_by_their_weights(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder, class_weights={"Other": 3.0})
    rows = [task.encode(row(label=label))[0] for label in ("Other", "likes(e1,e2)", "never seen")]
    batch = collate(rows, task, range(3))
    logits = torch.randn(3, 3)
    output: Any = type("Output", (), {"logits": logits})
    logs = logits.log_softmax(1)
    assert task.num_targets(batch) == 4.0
    assert float(task.loss(output, batch)) == pytest.approx(float(-3 * logs[0, 0] - logs[1, 1]), rel=1e-5)


@pytest.mark.parametrize(
    ("label", "relation", "direction"),
    [("likes(e1,e2)", "likes", "head->tail"), ("likes(e2,e1)", "likes", "tail->head"), ("Other", "Other", None)],
)
def test_a_prediction_says_relation_direction_and_places(
    tiny_encoder: Path, label: str, relation: str, direction: str | None
) -> None:
    task = ready(tiny_encoder)
    logits = torch.eye(3)[task.labels.names.index(label)].numpy() * 5
    found = task.decode(row(), task.encode(row()), [logits])
    json.dumps(found)
    assert (found["label"], found["relation"], found["direction"]) == (label, relation, direction)
    assert found["head"] == {"text": "anna", "start": 0, "end": 4}
    assert found["text"][found["tail"]["start"] : found["tail"]["end"]] == "old oslo"
    assert sum(found["scores"].values()) == pytest.approx(1)


def test_places_and_marks_are_predicted_alike(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder)
    given = {"text": "anna visited old oslo yesterday", "e1": [0, 4], "e2": {"start": 13, "end": 21}}
    one, other = task.read_input(TEXT, where="x:1"), task.read_input(given, where="x:1")
    assert task.encode(one)[0]["input_ids"].tolist() == task.encode(other)[0]["input_ids"].tolist()
    for wrong in ("anna visited oslo", {"head": [0, 3]}, {"text": "a b", "head": [0, 1]}):
        with pytest.raises(DataError) as caught:
            task.read_input(wrong, where="x:1")
        assert caught.value.problems[0].where == "x:1"


def test_typed_markers_need_types(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder, markers="typed")
    assert [problem.slug for problem in task.validate(row(label="Other"))] == ["no-type"]
    assert not list(task.validate(row(label="Other", head_type="person", tail_type="city")))
    assert "person" in decoded(task, row(head_type="person", tail_type="city"))


def test_the_negative_label_is_found_set_or_absent(tiny_encoder: Path) -> None:
    assert ready(tiny_encoder).negative_label == "Other"
    assert ready(tiny_encoder, negative_label=None).negative_label is None
    with pytest.raises(ConfigError) as caught:
        Relation(RelationConfig(negative_label="Othr")).learn_labels({"train": [row(label="Other")]}, unseen="error")
    assert "'Other'" in str(caught.value.problems[0].help)


def test_baselines_answer_from_train(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder)
    rows = [row(f"<e1>anna</e1> {verb} <e2>oslo</e2>", label) for verb, label in (("likes", "a"), ("left", "b"))] * 5
    baselines = task.baselines([*rows, row("<e1>x</e1> <e2>y</e2>", "a")])
    assert set(baselines) == {"majority", "words_between", "bag_of_words"}
    assert [baselines["words_between"](one) for one in rows[:2]] == ["a", "b"]
    assert baselines["majority"](rows[1]) == "a"
    metrics = task.metrics()
    for metric in metrics:
        metric.update(task.gold(rows[0]), baselines["majority"](rows[0]))
    assert merge_scores(metric.compute() for metric in metrics).values["accuracy"] == 1.0


@pytest.fixture
def clean_logging() -> Iterator[None]:
    with clean_process():
        yield


@pytest.mark.usefixtures("clean_logging")
def test_a_run_learns_directions_and_leaves_a_plain_classifier(tiny_encoder: Path, tmp_path: Path) -> None:
    people, places, lines = ["anna", "ben", "clara", "david", "emil"], ["oslo", "paris", "rome", "lima"], []
    for number in range(60):
        person, place = people[number % 5], places[number % 4]
        active = f"visit(e1,e2)\t<e1>{person}</e1> visited <e2>{place}</e2>"
        passive = f"visit(e2,e1)\t<e1>{place}</e1> liked by <e2>{person}</e2>"
        lines.append(
            (active, passive, f"Other\tthe company of <e1>{person}</e1> and the river in <e2>{place}</e2>")[number % 3]
        )
    (tmp_path / "train.tsv").write_text("\n".join(lines[:40]) + "\n", encoding="utf-8")
    (tmp_path / "test.tsv").write_text("\n".join(lines[40:]) + "\n", encoding="utf-8")
    words = [
        "task=relation",
        "data=csv",
        "data.header=false",
        "data.field_names=[label,text]",
        f"model={tiny_encoder}",
    ]
    words += [f"data.train={tmp_path / 'train.tsv'}", f"data.test={tmp_path / 'test.tsv'}", f"run={tmp_path / 'run'}"]
    words += [f"data.validation={tmp_path / 'test.tsv'}"]
    results = run_training(compose([*words, "optimizer.lr=0.01", "train.num_train_epochs=8", "train.batch_size=8"]))
    assert results["test"]["after"]["values"]["relation_f1_macro"] > 0.7
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8").count("F1 by distance") > 0
    (answer,) = predict(tmp_path / "run", ["<e1>rome</e1> liked by <e2>anna</e2>"], form="lines", source="x")
    assert (answer["relation"], answer["direction"]) == ("visit", "tail->head")
    lines = (tmp_path / "run/predictions/test.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    answers = [(one["gold"]["label"], one["prediction"]["label"]) for one in told]
    of_negatives = [answer for gold, answer in answers if gold == "Other"]
    of_relations = [answer for gold, answer in answers if gold != "Other"]
    assert len(of_negatives) >= 6 and of_negatives.count("Other") / len(of_negatives) > 0.8
    assert of_relations.count("Other") / len(of_relations) < 0.2
    (none,) = predict(
        tmp_path / "run", ["the company of <e1>emil</e1> and the river in <e2>oslo</e2>"], form="lines", source="x"
    )
    assert (none["label"], none["direction"]) == ("Other", None)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    logits = plain(**tokenizer("@ rome @ liked by # anna #", return_tensors="pt")).logits[0]
    assert plain.config.id2label[int(logits.argmax())] == answer["label"]
    assert float(logits.softmax(0).max().detach()) == pytest.approx(answer["score"], abs=1e-5)

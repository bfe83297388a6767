"""The ner task: data, windows, loss, prediction and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel, pipeline

from chainft.config.parse import parse
from chainft.data.batching import Batch, collate
from chainft.data.example import Example, Origin, Split
from chainft.errors import ChainftError, ConfigError, DataError
from chainft.tasks.base import Prediction, merge_scores
from chainft.tasks.ner import PLUGIN, Ner, NerConfig

NAMES = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
TEXTS = [
    "anna visited paris .",
    "emil, david and the old company of acme met in new oslo!",
    "The river Near LIMA isn't great",
    "  anna\tbought   globex  ",
    "zzz qqq",
    ".",
]
Data = dict[Split, list[Example]]


def row(words: str, tags: str, *, line: int = 1, file: str = "train.conll") -> Example:
    """A sentence as the conll source gives it: a line a word."""
    count = len(words.split())
    values = {"tokens": words.split(), "tags": tags.split()}
    return Example(values, Origin(file, line), tuple(range(line, line + count)))


def learned(data: Data, **settings: Any) -> Ner:
    task = Ner(NerConfig(**settings))
    task.learn_labels(data, unseen="error")
    return task


def ready(folder: Path, *, max_length: int = 64, **settings: Any) -> Ner:
    task = Ner(NerConfig(**settings))
    task.labels.names = NAMES
    task.prepare(AutoTokenizer.from_pretrained(folder), max_length=max_length)
    return task


def refused(error: ChainftError) -> list[str]:
    return [f"{problem.slug} {problem.where}" for problem in error.problems]


@pytest.fixture(scope="module")
def classifier(tiny_encoder: Path) -> PreTrainedModel:
    """A random classifier whose predictions are of every kind: its head has large weights."""
    torch.manual_seed(3)
    options: dict[str, Any] = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
    model = AutoModelForTokenClassification.from_pretrained(tiny_encoder, **options).eval()
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    return cast(PreTrainedModel, model)


def predicted(task: Ner, model: PreTrainedModel, example: Example) -> Prediction:
    windows = task.encode(example)
    with torch.inference_mode():
        raw = task.infer(model, collate(windows, task, range(len(windows)))).raw if windows else []
    return task.decode(example, windows, raw)


# Data ---------------------------------------------------------------------------------------------


def test_labels_are_o_then_types_with_b_before_i() -> None:
    task = learned({"train": [row("a b c d", "B-PER I-PER I-PER B-LOC")]})
    assert task.labels.names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert task.labels.counts == {"O": 0, "B-LOC": 1, "I-LOC": 0, "B-PER": 1, "I-PER": 2}


@pytest.mark.parametrize(
    "tags", ["I-PER I-PER O I-LOC", "B-PER I-PER O B-LOC", "B-PER E-PER O S-LOC", "B-PER L-PER O U-LOC"]
)
def test_every_scheme_is_learned_as_iob2(tags: str) -> None:
    task = learned({"train": [row("a b c d", tags)]})
    assert task.gold(row("a b c d", tags)) == ["B-PER", "I-PER", "O", "B-LOC"]
    assert task.labels.names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def test_illegal_tag_is_refused_with_its_line_and_an_offer() -> None:
    """fault 14: an invalid sequence -> file:line and the repair; the data stay as they are."""
    sentence = row("a b c", "O I-PER O", line=7)
    with pytest.raises(DataError) as caught:
        learned({"train": [sentence, row("a b", "B-PER I-PER"), row("b a", "B-LOC O")]})
    assert caught.value.problems[0].where == "train.conll:8"
    assert "'I-PER'" in caught.value.problems[0].message
    assert "'B-PER'" in str(caught.value.problems[0].help)
    assert "entities start with" in caught.value.problems[-1].message
    assert sentence.values["tags"] == ["O", "I-PER", "O"]


def test_illegal_tag_is_found_while_reading_where_the_scheme_is_set() -> None:
    """fault 14: so that data.on_error=skip can leave the sentence out."""
    problems = list(Ner(NerConfig(scheme="iob2")).validate(row("a b", "O I-PER", line=3)))
    assert [problem.where for problem in problems] == ["train.conll:4"]


@pytest.mark.parametrize(
    ("values", "slug"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "length-mismatch"),
        ({"tokens": ["a"], "tags": ["B-"]}, "illegal-tag"),
        ({"tokens": ["a"], "tags": ["3"]}, "illegal-tag"),
        ({"tokens": ["a"], "tags": [3]}, "wrong-type"),
        ({"tokens": "a", "tags": ["O"]}, "wrong-type"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "not-text"),
        ({"tokens": ["\ud83d"], "tags": ["O"]}, "lone-surrogate"),
    ],
)
def test_unsound_sentence_is_refused(values: dict[str, Any], slug: str) -> None:
    """fault 14: lengths and types, and half characters that no tokenizer takes."""
    problems = list(Ner(NerConfig()).validate(Example(values, Origin("f.jsonl", 4))))
    assert slug in [problem.slug for problem in problems]
    assert all(problem.where and problem.where.startswith("f.jsonl:4") for problem in problems)


def test_tag_that_only_another_split_has_is_refused() -> None:
    data: Data = {
        "train": [row("a b", "B-PER I-PER")],
        "test": [row("a b c", "O B-PERS O", line=4, file="test.conll")],
    }
    with pytest.raises(DataError) as caught:
        learned(data)
    problem = caught.value.problems[0]
    assert problem.where == "test.conll:5"
    assert "'PERS'" in problem.message
    assert "test" in problem.message
    assert "once" in problem.message
    assert "'PER'" in str(problem.help)


def test_longer_entity_of_a_known_type_is_no_unseen_label() -> None:
    """Train happens to have persons of one word only; a split with one of two words is sound all the same."""
    task = learned({"train": [row("a b", "B-PER O")], "test": [row("a b", "B-PER I-PER")]})
    assert task.labels.names == ("O", "B-PER", "I-PER")


def test_scheme_is_that_of_train_however_large_the_other_splits() -> None:
    data: Data = {"train": [row("a b", "B-PER I-PER")], "test": [row("a", "I-PER", file="test.conll")] * 9}
    with pytest.raises(DataError) as caught:
        learned(data)
    assert all("test.conll" in str(one.where) for one in caught.value.problems[:9])


def test_word_that_the_model_cannot_see_does_not_cut_an_entity(tiny_encoder: Path) -> None:
    """fault 12: a zero-width space between two words of a name belongs to the name."""
    sentence = row("anna \u200b ben", "B-PER I-PER I-PER")
    task = learned({"train": [sentence]})
    task.prepare(AutoTokenizer.from_pretrained(tiny_encoder), max_length=16)
    raw = [(np.array([1, 2]), np.array([0.5, 1.0]))]
    answer = task.decode(sentence, task.encode(sentence), raw)
    assert answer["tags"] == ["B-PER", "I-PER", "I-PER"]
    assert [entity["score"] for entity in answer["entities"]] == [0.75]


def test_unseen_tag_joins_the_labels_where_allowed() -> None:
    data: Data = {"train": [row("a b", "B-PER O")], "test": [row("a", "B-LOC")]}
    task = Ner(NerConfig())
    task.learn_labels(data, unseen="allow")
    assert task.labels.names == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    assert "unseen-label" in [finding.slug for finding in task.contract(data)]


def test_contract_tells_the_scheme_and_its_evidence() -> None:
    data: Data = {"train": [row("a b", "I-PER I-PER")]}
    finding = next(iter(learned(data).contract(data)))
    assert finding.slug == "tag-scheme"
    assert "iob1" in finding.message
    assert "1 with I-" in finding.message


def test_training_without_any_entity_is_an_error() -> None:
    """fault 15: all-O NER."""
    data: Data = {"train": [row("a b", "O O")], "test": [row("a b", "O O")]}
    found = [(one.slug, one.severity) for one in learned(data).contract(data)]
    assert ("no-entities", "error") in found
    assert ("no-entities", "warning") in found


# Config -------------------------------------------------------------------------------------------


def test_config_takes_each_form_of_class_weights() -> None:
    for weights in (None, "balanced", {"B-PER": 2.0}):
        config = parse(PLUGIN.config_class, {"name": "ner", "class_weights": weights}, at="task")
        assert cast(NerConfig, config).class_weights == weights


def test_overlap_that_fills_a_window_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ready(tiny_encoder, max_length=16, overlap=14)
    assert caught.value.problems[0].key == "task.overlap"
    assert ready(tiny_encoder, max_length=16, overlap=13)


def test_class_weight_of_an_unknown_tag_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ready(tiny_encoder, class_weights={"B-PERS": 2.0})
    assert caught.value.problems[0].key == "task.class_weights.B-PERS"
    assert "'B-PER'" in str(caught.value.problems[0].help)


def test_metric_of_another_task_is_refused_before_data() -> None:
    with pytest.raises(ConfigError, match="classification"):
        Ner(NerConfig(metrics=("entities", "classification")))


# Features and loss --------------------------------------------------------------------------------


def test_label_sits_at_the_first_sub_word(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder)
    (window,) = task.encode(row("zab anna", "B-PER O"))
    assert task.tokenizer.convert_ids_to_tokens(window["input_ids"].tolist()) == [
        *("[CLS]", "z", "##a", "##b", "anna", "[SEP]")
    ]
    assert window["labels"].tolist() == [-100, 3, -100, -100, 0, -100]
    assert window["word_ids"].tolist() == [-1, 0, -1, -1, 1, -1]


def test_over_long_sentence_keeps_every_target(tiny_encoder: Path) -> None:
    """fault 13: no silent loss: as many targets as words."""
    task = ready(tiny_encoder, max_length=10)
    windows = task.encode(row("anna met " * 30, "B-PER O " * 30))
    assert sum(int((window["labels"] != -100).sum()) for window in windows) == 60
    assert max(len(window["input_ids"]) for window in windows) == 10


def batch_of(task: Ner) -> Batch:
    rows = [row("anna in paris", "B-PER O B-LOC"), row("emil", "B-PER")]
    return collate([window for one in rows for window in task.encode(one)], task, [0, 1])


def test_loss_is_the_sum_over_words(tiny_encoder: Path, classifier: PreTrainedModel) -> None:
    task = ready(tiny_encoder)
    batch = batch_of(task)
    with torch.inference_mode():
        output = classifier(**batch.inputs)
        mean = classifier(**batch.inputs, labels=batch.targets["labels"]).loss
        loss = task.loss(output, batch)
    assert task.num_targets(batch) == 4
    assert float(loss) / 4 == pytest.approx(float(mean), rel=1e-5)


def test_class_weights_enter_loss_and_number_of_targets(tiny_encoder: Path, classifier: PreTrainedModel) -> None:
    task = ready(tiny_encoder, class_weights={"B-PER": 3.0})
    batch = batch_of(task)
    assert task.num_targets(batch) == 1 + 1 + 3 + 3
    with torch.inference_mode():
        output = classifier(**batch.inputs)
        weights = torch.tensor([1.0, 1.0, 1.0, 3.0, 1.0])
        mean = torch.nn.functional.cross_entropy(
            output.logits.flatten(0, 1), batch.targets["labels"].flatten(), weight=weights
        )
        assert float(task.loss(output, batch)) / 8 == pytest.approx(float(mean), rel=1e-5)


def test_balanced_weights_give_each_tag_the_same_share(tiny_encoder: Path) -> None:
    task = learned({"train": [row("a b c d", "O O O B-PER")]}, class_weights="balanced")
    task.prepare(AutoTokenizer.from_pretrained(tiny_encoder), max_length=16)
    batch = collate(task.encode(row("a b c d", "O O O B-PER")), task, [0])
    assert task.num_targets(batch) == pytest.approx(4.0)


# Prediction ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_entities_of_a_text_equal_the_pipelines(tiny_encoder: Path, classifier: PreTrainedModel) -> None:
    """transformers.pipeline("token-classification", aggregation_strategy="first") finds the same, with places."""
    task = ready(tiny_encoder)
    build: Any = pipeline
    finder = build(
        "token-classification", model=classifier, tokenizer=task.tokenizer, aggregation_strategy="first", device="cpu"
    )
    found = 0
    for text in TEXTS:
        ours = predicted(task, classifier, task.read_input(text, where="stdin:1"))["entities"]
        theirs = finder(text)
        assert [(e["type"], e["start"], e["end"]) for e in ours] == [
            (e["entity_group"], e["start"], e["end"]) for e in theirs
        ]
        assert [e["score"] for e in ours] == pytest.approx([float(e["score"]) for e in theirs], abs=1e-6)
        assert all(text[e["start"] : e["end"]] == e["text"] for e in ours)
        found += len(ours)
    assert found > 10


def test_words_and_their_text_are_predicted_alike(tiny_encoder: Path, classifier: PreTrainedModel) -> None:
    task = ready(tiny_encoder)
    words = ["anna", "visited", "the", "old", "river", "in", "paris"]
    by_words = predicted(task, classifier, task.read_input({"tokens": words}, where="stdin:1"))
    assert by_words == predicted(task, classifier, task.read_input(" ".join(words), where="stdin:1"))
    assert by_words["tokens"] == words


def test_prediction_holds_a_tag_for_every_word_of_a_long_text(tiny_encoder: Path, classifier: PreTrainedModel) -> None:
    """fault 13: prediction, too, loses nothing beyond the window."""
    task = ready(tiny_encoder, max_length=12)
    answer = predicted(task, classifier, task.read_input("anna met emil in oslo . " * 20, where="stdin:1"))
    assert len(answer["tags"]) == len(answer["tokens"]) == 120


def test_prediction_of_stored_windows_needs_nothing_but_their_columns(
    tiny_encoder: Path, classifier: PreTrainedModel
) -> None:
    task = ready(tiny_encoder)
    example = task.read_input("anna left oslo", where="stdin:1")
    windows = [{name: window[name] for name in task.features if name in window} for window in task.encode(example)]
    with torch.inference_mode():
        raw = task.infer(classifier, collate(windows, task, [0])).raw
    assert task.decode(example, windows, raw) == predicted(task, classifier, example)


def test_batch_of_windows_predicts_as_one_by_one(tiny_encoder: Path, classifier: PreTrainedModel) -> None:
    task = ready(tiny_encoder)
    windows = [task.encode(task.read_input(text, where="x:1"))[0] for text in TEXTS]
    with torch.inference_mode():
        together = task.infer(classifier, collate(windows, task, range(len(windows)))).raw
        alone = [task.infer(classifier, collate([window], task, [0])).raw[0] for window in windows]
    for (tags, values), (other_tags, other_values) in zip(together, alone, strict=True):
        assert tags.tolist() == other_tags.tolist()
        np.testing.assert_allclose(values, other_values, atol=1e-5)


def test_prediction_is_plain_json(tiny_encoder: Path, classifier: PreTrainedModel) -> None:
    import json

    answer = predicted(ready(tiny_encoder), classifier, Example({"text": TEXTS[1]}, Origin("x", 1)))
    assert json.loads(json.dumps(answer)) == answer


@pytest.mark.parametrize(
    ("value", "slug"),
    [
        ({}, "missing-key"),
        ({"txet": "x"}, "missing-key"),
        ({"text": 3}, "not-text"),
        ({"tokens": "a b"}, "wrong-type"),
        ({"words": ["a", None]}, "not-text"),
        ("half \ud83d", "lone-surrogate"),
    ],
)
def test_unreadable_input_is_refused_at_its_line(value: Any, slug: str) -> None:
    with pytest.raises(DataError) as caught:
        Ner(NerConfig()).read_input(value, where="stdin:3")
    assert refused(caught.value) == [f"{slug} stdin:3"]


# Scores -------------------------------------------------------------------------------------------


def test_right_prediction_is_no_mistake() -> None:
    task = Ner(NerConfig())
    assert task.mistake(row("anna met", "B-PER O"), {"tags": ["B-PER", "O"]}) is None
    assert task.mistake(row("anna met", "B-PER O"), {"tags": ["I-PER", "O"]}) is None


def test_mistake_marks_both_sides_in_the_text() -> None:
    task = Ner(NerConfig())
    found = task.mistake(row("anna met new emil", "B-PER O O B-PER"), {"tags": ["B-PER", "O", "B-PER", "I-PER"]})
    assert found is not None
    assert found.badness == 2.0
    assert [(mark.start, mark.end, mark.label) for mark in found.gold_marks] == [(0, 4, "PER"), (13, 17, "PER")]
    assert [(mark.start, mark.end) for mark in found.predicted_marks] == [(0, 4), (9, 17)]
    assert found.gold == "PER: anna; PER: emil"


def test_scores_of_all_metrics_go_together() -> None:
    task = Ner(NerConfig())
    metrics = task.metrics()
    for metric in metrics:
        metric.update(task.gold(row("a b", "I-PER O")), task.predicted({"tags": ["B-PER", "O"]}))
    values = merge_scores(metric.compute() for metric in metrics).values
    assert values[task.main_metric] == 1.0 == values["token_accuracy"]


def test_the_length_of_a_sentence_is_that_of_the_whole(tiny_encoder: Path) -> None:
    """20 words of one token each, with two special tokens; windows of 8 with overlap would count more."""
    task = ready(tiny_encoder, max_length=10)
    sentence = Example({"tokens": ["anna", "likes"] * 10}, Origin("t", 1))
    assert task.num_tokens(sentence) == 22


@pytest.mark.parametrize(("tag", "repair"), [("b-PER", "'B-PER'"), ("o", "'O'"), ("3", "such as B-PER")])
def test_a_malformed_tag_comes_with_a_repair_where_there_is_one(tag: str, repair: str) -> None:
    """fault 14: offered while reading too, when the scheme is not known yet."""
    (problem,) = Ner(NerConfig()).validate(Example({"tokens": ["anna"], "tags": [tag]}, Origin("t", 1)))
    assert repair in (problem.help or "")

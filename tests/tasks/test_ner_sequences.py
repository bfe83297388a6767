"""Legal tags, the CRF and document context of the ner task."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel

from chainft.config.run import ModelConfig
from chainft.data.batching import collate
from chainft.data.example import Example, Origin
from chainft.errors import ConfigError, DataError, ModelError
from chainft.infer.trained import load_run, save_trained
from chainft.models.load import load_model
from chainft.stages.chain import build_chain
from chainft.tasks.base import Labels, Prediction
from chainft.tasks.ner import Ner, NerConfig
from chainft.text.schemes import violations
from chainft.train.optimizer import parameter_groups

NAMES = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
WORDS = [
    "anna",
    "visited",
    "old",
    "paris",
    "and",
    "emil",
    ",",
    "david",
    "met",
    "the",
    "new",
    "company",
    "of",
    "acme",
    "in",
    "oslo",
    "!",
]


def row(words: list[str], tags: str | None = None, **values: Any) -> Example:
    gold = {} if tags is None else {"tags": tags.split()}
    return Example({"tokens": words, **gold, **values}, Origin("train.conll", 1))


def ready(folder: Path, *, max_length: int = 64, **settings: Any) -> Ner:
    task = Ner(NerConfig(**settings))
    task.labels = Labels(NAMES)
    task.prepare(AutoTokenizer.from_pretrained(folder), max_length=max_length)
    return task


def model_of(folder: Path, task: Ner) -> PreTrainedModel:
    """A random model with predictions of every kind."""
    model = load_model(ModelConfig(path=str(folder)), task, seed=3).model.eval()
    torch.manual_seed(5)
    torch.nn.init.normal_(cast(Any, model).classifier.weight, std=2.0)
    for name, parameter in model.named_parameters():
        if name.startswith("crf."):
            torch.nn.init.normal_(parameter)
    return model


def output_of(task: Ner, model: PreTrainedModel, examples: list[Example]) -> tuple[Any, Any]:
    rows = [window for example in examples for window in task.encode(example)]
    batch = collate(rows, task, range(len(rows)))
    return model(**task.arguments(batch)), batch


def predicted(task: Ner, model: PreTrainedModel, example: Example) -> Prediction:
    windows = task.encode(example)
    with torch.inference_mode():
        raw = task.infer(model, collate(windows, task, range(len(windows)))).raw
    return task.decode(example, windows, raw)


SEQUENCES: list[dict[str, Any]] = [{"crf": True}, {"decoding": "viterbi"}]


@pytest.mark.parametrize("settings", [*SEQUENCES, {}])
@pytest.mark.parametrize("max_length", [64, 9])
def test_predicted_tags_are_always_legal(tiny_encoder: Path, settings: dict[str, Any], max_length: int) -> None:
    task = ready(tiny_encoder, max_length=max_length, **settings)
    model = model_of(tiny_encoder, task)
    for seed in range(5):
        words = list(np.random.default_rng(seed).permutation(WORDS))
        assert not violations(predicted(task, model, row(words))["tags"], "iob2")


@pytest.mark.parametrize("settings", SEQUENCES)
@pytest.mark.parametrize("max_length", [64, 7])
def test_the_best_sequence_is_that_of_the_whole_sentence(
    tiny_encoder: Path, settings: dict[str, Any], max_length: int
) -> None:
    """Whatever windows it is cut into: by brute force over the words' own scores."""
    task = ready(tiny_encoder, max_length=max_length, **settings)
    model = model_of(tiny_encoder, task)
    words = WORDS[:6]
    windows = task.encode(row(words))
    assert (len(windows) > 1) == (max_length == 7)
    with torch.no_grad():
        output, batch = output_of(task, model, [row(words)])
    owned = batch.targets["word_ids"] >= 0
    scores = output.logits[owned].log_softmax(-1)
    found = predicted(task, model, row(words))["tags"]
    best, tags = -np.inf, [""]
    crf = dict(cast(Any, model).named_parameters())
    for path in itertools.product(range(5), repeat=len(words)):
        names = [NAMES[tag] for tag in path]
        if not violations(names, "iob2"):
            value = float(sum(scores[word, tag] for word, tag in enumerate(path)))
            if task.config.crf:
                value += float(crf["crf.start"][path[0]].detach() + crf["crf.end"][path[-1]].detach())
                value += sum(float(crf["crf.transitions"][a, b].detach()) for a, b in itertools.pairwise(path))
            best, tags = (value, names) if value > best else (best, tags)
    assert found == tags


def test_the_loss_of_a_cut_sentence_is_that_of_its_parts_each_after_the_gold_tag_before(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder, crf=True, max_length=7)
    model = model_of(tiny_encoder, task)
    example = row(WORDS[:8], "B-PER O B-LOC I-LOC O B-PER O B-PER")
    output, batch = output_of(task, model, [example])
    ids = [NAMES.index(tag) for tag in example.values["tags"]]
    firsts = [int(row[row >= 0][0]) for row in batch.targets["word_ids"]]
    assert batch.targets["before"][:, 0].tolist() == [0, *(ids[first - 1] + 1 for first in firsts[1:])]
    assert batch.targets["goes_on"][:, 0].tolist() == [1] * (len(firsts) - 1) + [0]
    assert task.num_targets(batch) == 8
    assert torch.isfinite(task.loss(output, batch))


def test_the_loss_does_not_depend_on_the_batch(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder, crf=True)
    model = model_of(tiny_encoder, task)
    examples = [row(WORDS[:3], "B-PER O B-LOC"), row(WORDS, "O " * 16 + "O"), row(["oslo"], "B-LOC")]
    together = float(task.loss(*output_of(task, model, examples)).detach())
    alone = [float(task.loss(*output_of(task, model, [one])).detach()) for one in examples]
    assert together == pytest.approx(sum(alone), rel=1e-5)


def test_gold_tags_with_invisible_words_and_unknown_tags_have_a_finite_loss(tiny_encoder: Path) -> None:
    """`I-PER` behind a word that the tokenizer gives no place, and a type that the model does not have."""
    task = ready(tiny_encoder, crf=True)
    model = model_of(tiny_encoder, task)
    for example in (row(["\u200b", "anna"], "B-PER I-PER"), row(["anna", "acme", "oslo"], "B-PER B-ORG I-ORG")):
        output, batch = output_of(task, model, [example])
        assert 0 < float(task.loss(output, batch).detach()) < 100


def test_a_saved_model_predicts_the_same_and_is_a_plain_folder(tiny_encoder: Path, tmp_path: Path) -> None:
    task = ready(tiny_encoder, crf=True)
    model = model_of(tiny_encoder, task)
    save_trained(tmp_path / "model", model, task, build_chain(model, _run_config()))
    again = load_run(tmp_path / "model")
    assert isinstance(again.task, Ner)
    assert predicted(again.task, again.model, row(WORDS)) == predicted(task, model, row(WORDS))
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "model")
    rows = task.encode(row(WORDS))
    batch = collate(rows, task, [0])
    assert torch.equal(plain(**batch.inputs).logits, model(**batch.inputs).logits)
    with pytest.raises(ModelError, match=r"crf\.end"):
        load_run(tmp_path / "model", replace(task.config, crf=False))


def test_whoever_may_read_a_new_file_may_read_a_saved_model(tiny_encoder: Path, tmp_path: Path) -> None:
    task = ready(tiny_encoder)
    model = model_of(tiny_encoder, task)
    save_trained(tmp_path / "model", model, task, build_chain(model, _run_config()))
    (tmp_path / "new").touch()
    assert {file.stat().st_mode for file in (tmp_path / "model").iterdir()} == {(tmp_path / "new").stat().st_mode}


def test_a_model_without_a_crf_is_not_evaluated_with_one(tiny_encoder: Path, tmp_path: Path) -> None:
    task = ready(tiny_encoder)
    model = model_of(tiny_encoder, task)
    save_trained(tmp_path / "model", model, task, build_chain(model, _run_config()))
    with pytest.raises(ModelError, match=r"lacks crf\.start"):
        load_run(tmp_path / "model", replace(task.config, crf=True))


def test_the_crf_has_its_own_rate_and_no_weight_decay(tiny_encoder: Path) -> None:
    from chainft.config.run import OptimizerConfig

    for lr, expected in ((0.1, 0.1), (None, 0.001)):
        task = ready(tiny_encoder, crf=True, crf_lr=lr)
        model = model_of(tiny_encoder, task)
        groups = parameter_groups(model, OptimizerConfig(lr=0.001, weight_decay=0.1))
        named = {id(parameter): name for name, parameter in model.named_parameters()}
        for group in groups:
            for parameter in group["params"]:
                if named[id(parameter)].startswith("crf."):
                    assert (group["peak_lr"], group["weight_decay"]) == (expected, 0.0)
        assert sum(len(group["params"]) for group in groups) == len(named)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"crf_lr": 0.1}, "task.crf_lr"),
        ({"crf": True, "label_smoothing": 0.1}, "task.label_smoothing"),
        ({"crf": True, "class_weights": "balanced"}, "task.class_weights"),
        ({"crf": True, "decoding": "greedy"}, "task.decoding"),
        ({"max_context": 3}, "task.max_context"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Ner(NerConfig(**settings))
    assert [problem.key for problem in caught.value.problems] == [key]


# Context ------------------------------------------------------------------------------------------


def document(task: Ner) -> list[Example]:
    sentences = [["anna", "met", "emil"], ["they", "left", "oslo"], ["the", "company"], ["rome", "is", "old"]]
    marks = ["1", "1", "1", "2"]
    rows = [row(words, document=mark) for words, mark in zip(sentences, marks, strict=True)]
    return list(task.arranged(rows))


def test_a_sentence_is_encoded_between_its_neighbours_and_owns_its_words_only(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder, context="document")
    second = document(task)[1]
    (window,) = task.encode(second)
    (plain,) = ready(tiny_encoder).encode(row(["anna", "met", "emil", "they", "left", "oslo", "the", "company"]))
    assert window["input_ids"].tolist() == plain["input_ids"].tolist()
    assert window["word_ids"].max() == 2
    assert (window["word_ids"] >= 0).sum() == 3
    assert task.num_tokens(second) == len(ready(tiny_encoder).encode(row(second.values["tokens"]))[0]["input_ids"])


def test_a_document_ends_where_the_next_begins(tiny_encoder: Path) -> None:
    rows = document(ready(tiny_encoder, context="document"))
    assert rows[2].values["after"] == [] and rows[3].values["before"] == []
    assert rows[2].values["before"] == ["anna", "met", "emil", "they", "left", "oslo"]


@pytest.mark.parametrize("max_length", [9, 12, 64])
@pytest.mark.parametrize("most", [0, 2, 64])
def test_context_takes_the_room_that_is_left(tiny_encoder: Path, max_length: int, most: int) -> None:
    task = ready(tiny_encoder, context="document", max_length=max_length, max_context=most)
    for example in document(task):
        (window,) = task.encode(example)
        assert len(window["input_ids"]) <= max_length
        extra = len(window["input_ids"]) - task.num_tokens(example)
        assert extra <= 2 * most
        assert most or not extra


def test_answers_in_context_do_not_depend_on_the_batch(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder, context="document", crf=True)
    model = model_of(tiny_encoder, task)
    rows = document(task)
    windows = [task.encode(one)[0] for one in rows]
    with torch.inference_mode():
        raw = task.infer(model, collate(windows, task, range(len(windows)))).raw
    for example, window, one in zip(rows, windows, raw, strict=True):
        together, alone = task.decode(example, [window], [one]), predicted(task, model, example)
        assert together["tags"] == alone["tags"]


def test_context_needs_to_know_where_documents_begin(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder, context="document")
    with pytest.raises(DataError, match="where a document begins"):
        task.arranged([row(["anna"]), row(["oslo"])])


def test_context_can_be_given_to_predict(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder, context="document")
    given = {"tokens": ["they", "left"], "before": ["anna", "met"], "after": ["oslo"]}
    assert task.read_input(given, where="x:1").values == given
    assert "before" not in ready(tiny_encoder).read_input(given, where="x:1").values
    with pytest.raises(DataError):
        task.read_input({**given, "before": "anna"}, where="x:1")


def _run_config() -> Any:
    from chainft.config.compose import compose

    return compose(["task=ner"]).config


@pytest.fixture(autouse=True)
def quiet_random() -> Iterator[None]:
    with torch.random.fork_rng():
        yield

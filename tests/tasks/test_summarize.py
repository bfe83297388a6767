"""Summaries: documents as texts or lists of sentences, several references, and what answers without training score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from chainft.config.parse import parse
from chainft.config.run import ModelConfig
from chainft.data.example import Example, Origin
from chainft.errors import ConfigError, DataError
from chainft.models.load import load_config
from chainft.registry import find
from chainft.tasks.summarize import Summarize, SummarizeConfig
from chainft.train.baselines import score_baselines

Writer = Callable[[str], Path]
TEXT = "Anna met Ben. They left Oslo. It was old. Emil joined."


def example(document: Any, summary: Any = "Anna met Ben.") -> Example:
    return Example({"document": document, "summary": summary}, Origin("data.jsonl", 1))


def make(folder: Path | None = None, **settings: Any) -> Summarize:
    task = Summarize(parse(SummarizeConfig, {"name": "summarize", "max_new_tokens": 8, **settings}))
    if folder is not None:
        task.adapt(load_config(ModelConfig(path=str(folder))))
        task.prepare(AutoTokenizer.from_pretrained(folder), max_length=48)
    return task


def test_the_plugin_is_found() -> None:
    assert find("task", "summarize", key="task.name") is Summarize


@pytest.mark.parametrize("document", [TEXT, ["Anna met Ben.", "They left Oslo. ", "It was old.", "Emil joined."]])
def test_a_document_is_a_text_or_a_list_of_sentences(writer: Writer, document: Any) -> None:
    task = make(writer("t5"))
    one = example(document)
    assert list(task.validate(one)) == []
    assert task._template.render(task.source(one)) == f"summarize: {TEXT}"
    leads = task.baselines([])
    assert leads["lead_1"](one) == "Anna met Ben."
    assert leads["lead_3"](one) == "Anna met Ben.\nThey left Oslo.\nIt was old."


def test_the_first_of_several_references_is_learned_and_the_best_counts(writer: Writer) -> None:
    task = make(writer("t5"))
    one = example(TEXT, ["Emil joined.", "Anna met Ben."])
    assert task.encode(one)[0]["labels"].tolist() == task.layout.target("Emil joined.")
    scores = score_baselines(task, [one], [one])
    assert scores["lead_1"]["rougeL"] == 1.0
    assert 0 < scores["lead_3"]["rougeL"] < 1.0
    assert "rougeLsum" in scores["lead_1"]


@pytest.mark.parametrize(
    ("document", "summary", "slug"),
    [
        (3, "a", "not-text"),
        ([["a"]], "a", "not-text"),
        ("a", [], "no-reference"),
        ("a", ["b", None], "not-text"),
        ("a", {"b": 1}, "not-text"),
    ],
)
def test_values_of_other_kinds_are_refused(document: Any, summary: Any, slug: str) -> None:
    assert [one.slug for one in make().validate(example(document, summary))] == [slug]


def test_a_long_document_loses_its_end_unless_told_otherwise(writer: Writer) -> None:
    task = make(writer("t5"))
    (feature,) = task.encode(example("anna visited " * 60))
    assert (len(feature["input_ids"]), feature["tokens_cut"].item() > 0) == (48, True)
    with pytest.raises(DataError, match="more than 48"):
        make(writer("t5"), overflow="error").encode(example("anna visited " * 60))


def test_a_line_a_text_or_a_list_is_a_document() -> None:
    task = make()
    assert task.read_input("hello", where="<stdin>:1").values == {"document": "hello"}
    assert task.read_input({"article": ["a.", "b."]}, where="in.jsonl:1").values == {"document": ["a.", "b."]}
    with pytest.raises(DataError):
        task.read_input({"document": [1]}, where="in.jsonl:1")


def test_a_setting_of_a_metric_that_is_not_counted_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        make(rouge_tokenizer="unicode", metrics=["lengths"])
    assert caught.value.problems[0].key == "task.rouge_tokenizer"


def test_rouge_takes_the_tokenizer_that_is_asked_for() -> None:
    metric = make(rouge_tokenizer="unicode").metrics()[0]
    metric.update(["кошка"], "кошка")
    assert metric.compute().values["rouge1"] == 1.0

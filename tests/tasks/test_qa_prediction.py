"""Answers of the qa task: over windows, in any batch, from any input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from chainft.errors import DataError
from chainft.tasks.qa import Qa
from chainft.text.best_answers import Raw
from tests.tasks.qa_case import answered, batch_of, examples, model_of, ready


@pytest.fixture(scope="module")
def task(tiny_encoder: Path) -> Qa:
    return ready(tiny_encoder)


@pytest.fixture(scope="module")
def model(tiny_encoder: Path, task: Qa) -> PreTrainedModel:
    return model_of(tiny_encoder, task)


# Prediction ---------------------------------------------------------------------------------------


def test_answers_are_the_best_of_all_windows(task: Qa, model: PreTrainedModel) -> None:
    """Against every pair of tokens of every window, by log-probabilities over context and first token."""
    for example in examples():
        best, nulls, seen = {}, [], example.values["context"]
        for feature in task.encode(example):
            with torch.inference_mode():
                output = model(**task.collate([feature], [0]).inputs)
            kept = [place for place in range(len(feature["roles"])) if feature["roles"][place] & 1]
            start, end = (
                dict(zip(kept, logits[0, kept].log_softmax(0).tolist(), strict=True))
                for logits in (output.start_logits, output.end_logits)
            )
            nulls.append(start[0] + end[0])
            for first in kept:
                for last in kept:
                    roles = feature["roles"][first] & 2 and feature["roles"][last] & 4
                    if roles and first <= last < first + task.config.max_answer_tokens:
                        text = seen[feature["char_starts"][first] : feature["char_ends"][last]]
                        best[text] = max(best.get(text, -1e9), start[first] + end[last])
        (found,) = answered(task, model, [example])
        top = sorted(best, key=lambda text: -best[text])[: task.config.num_best]
        listed = [one for one in found["n_best"] if one["answer"]]
        assert [one["answer"] for one in listed] == top
        assert found["null_score_difference"] == pytest.approx(min(nulls) - best[top[0]], abs=1e-4)
        assert all(seen[one["start"] : one["end"]] == one["answer"] for one in listed)
        assert (found["answer"] == "") == (found["null_score_difference"] > 0)


@pytest.mark.parametrize(("batch_size", "order"), [(1, 1), (3, -1), (16, 1)])
def test_prediction_does_not_depend_on_the_batch(
    task: Qa, model: PreTrainedModel, batch_size: int, order: int
) -> None:
    expected = answered(task, model, examples())
    found = answered(task, model, examples()[::order], batch_size)[::order]
    for one, other in zip(found, expected, strict=True):
        assert one["answer"] == other["answer"]
        assert [c["answer"] for c in one["n_best"]] == [c["answer"] for c in other["n_best"]]
        assert [c["score"] for c in one["n_best"]] == pytest.approx([c["score"] for c in other["n_best"]], abs=1e-5)


def test_raw_results_are_small(task: Qa, model: PreTrainedModel) -> None:
    with torch.inference_mode():
        raw = task.infer(model, batch_of(task, examples())).raw
    assert all(isinstance(one, Raw) and len(one.scores) == len(one.starts) == len(one.ends) <= 20 for one in raw)


def test_stored_windows_predict_as_fresh_ones(task: Qa, model: PreTrainedModel) -> None:
    example = examples()[3]
    windows = [{name: one[name] for name in task.features if name in one} for one in task.encode(example)]
    with torch.inference_mode():
        raw = task.infer(model, task.collate(windows, range(len(windows)))).raw
    assert task.decode(example, windows, raw) == answered(task, model, [example])[0]


def test_answers_are_at_most_so_long_and_so_many(tiny_encoder: Path, model: PreTrainedModel) -> None:
    task = ready(tiny_encoder, max_answer_tokens=2, num_best=3)
    for found in answered(task, model, examples()):
        listed = [one["answer"] for one in found["n_best"] if one["answer"]]
        assert len(listed) == 3 == len(set(listed))
        assert all(len(answer.split()) <= 2 for answer in listed)


@pytest.mark.parametrize(
    "value", ['{"question": "who ?", "context": "anna left"}', {"query": "who ?", "passage": "anna left"}]
)
def test_input_is_an_object_or_a_line_of_json(task: Qa, value: Any) -> None:
    assert task.read_input(value, where="x:1").values == {"question": "who ?", "context": "anna left"}


@pytest.mark.parametrize(
    ("value", "slug", "words"),
    [
        ("who left ?", "no-context", '"context"'),
        ('["who", "anna left"]', "no-context", '"context"'),
        ('{"question": ', "bad-json", ""),
        ('{"question": "who ?"}', "missing-key", "context"),
        ({"question": "who ?", "context": 7}, "not-text", ""),
        ({"question": "", "context": "anna"}, "empty-question", ""),
        ({"question": "who ?", "context": " "}, "empty-context", ""),
    ],
)
def test_other_input_is_refused_with_an_explanation(task: Qa, value: Any, slug: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        task.read_input(value, where="stdin:3")
    (problem,) = caught.value.problems
    assert (problem.slug, problem.where) == (slug, "stdin:3")
    assert words in f"{problem.message} {problem.help}"

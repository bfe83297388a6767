"""The qa task: data, features, loss, and what is chosen on validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from chainft.config.compose import compose
from chainft.config.parse import parse
from chainft.data.contract import check_contract
from chainft.data.example import Example, Finding, Split
from chainft.data.load import Splits, load_splits
from chainft.errors import ConfigError
from chainft.tasks.base import Prediction
from chainft.tasks.qa import Qa, QaConfig
from tests.tasks.qa_case import CONTEXT, ROWS, batch_of, examples, model_of, ready


@pytest.fixture(scope="module")
def task(tiny_encoder: Path) -> Qa:
    return ready(tiny_encoder)


@pytest.fixture(scope="module")
def model(tiny_encoder: Path, task: Qa) -> PreTrainedModel:
    return model_of(tiny_encoder, task)


# Data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "slug"),
    [
        ({"question": " "}, "empty-question"),
        ({"context": "\n"}, "empty-context"),
        ({"question": "\ud83d"}, "lone-surrogate"),
        ({"answers": {"text": ["oslo"], "answer_start": [3]}}, "wrong-offset"),
        ({"answers": {"text": ["oslo"], "answer_start": [99]}}, "outside-context"),
        ({"answers": "the"}, "ambiguous-answer"),
        ({"answers": "Oslo"}, "answer-not-in-context"),
    ],
)
def test_unsound_question_is_refused_at_its_place(values: dict[str, Any], slug: str) -> None:
    """fault 14"""
    (example,) = examples([{**ROWS[0], **values}])
    assert [(one.slug, one.where) for one in Qa(QaConfig()).validate(example)] == [(slug, "train.jsonl:1")]


def test_question_without_answer_is_refused_where_there_must_be_one() -> None:
    (problem,) = Qa(QaConfig(unanswerable=False)).validate(examples()[2])
    assert (problem.slug, problem.key) == ("no-answer", "task.unanswerable")


@pytest.mark.parametrize(
    ("rows", "setting", "expected"),
    [(ROWS, "auto", True), (ROWS[:2], "auto", False), (ROWS[:2], True, True), (ROWS[:2], False, False)],
)
def test_model_may_say_no_answer_if_training_has_it_or_if_set(rows: Any, setting: Any, expected: bool) -> None:
    task = Qa(QaConfig(unanswerable=setting))
    task.learn_labels({"train": examples(rows)}, unseen="error")
    assert task.may_abstain is expected
    assert task.needs_tuning is expected


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"unanswerable": False, "null_threshold": 1.0}, "task.null_threshold"),
        ({"overflow": "error", "window_overlap": 3}, "task.window_overlap"),
        ({"metrics": ("text",)}, "task.metrics"),
    ],
)
def test_setting_without_effect_is_refused_before_data(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Qa(QaConfig(**settings))
    assert caught.value.problems[0].key == key


def test_threshold_is_refused_where_every_question_has_an_answer(tiny_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="every training question has an answer"):
        ready(tiny_encoder, rows=ROWS[:2], null_threshold=1.0)
    assert ready(tiny_encoder, rows=ROWS[:2], null_threshold=1.0, unanswerable=True)


def contract(task: Qa, splits: dict[Split, list[Example]]) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for one in check_contract(Splits(splits, ""), task):
        found.setdefault(one.slug, []).append(one)
    return found


def test_contract_tells_shares_shared_contexts_and_lost_answers(tiny_encoder: Path) -> None:
    long_answer = {"question": "what ?", "context": CONTEXT, "answers": CONTEXT.strip()}
    rows = [*ROWS, long_answer]
    task = ready(tiny_encoder, rows=rows, max_answer_tokens=5, max_length=20)
    found = contract(task, {"train": examples(rows), "test": examples(ROWS[:2], "test.jsonl")})
    (share,) = found["unanswerable"]
    assert (share.severity, share.count, share.where) == ("info", 2, "train.jsonl:3")
    assert "2 of 6" in share.message and "33%" in share.message
    (shared,) = found["shared-context"]
    assert (shared.severity, shared.where) == ("warning", "test.jsonl:1")
    (cut,) = found["cut-answer"]
    assert (cut.severity, cut.where, cut.count) == ("warning", "train.jsonl:6", 1)
    task.prepare(task.tokenizer, max_length=48)
    (long,) = contract(task, {"train": examples(rows)})["long-answer"]
    assert (long.where, long.count) == ("train.jsonl:6", 1)


def test_contract_warns_of_unanswerable_questions_that_training_lacks(tiny_encoder: Path) -> None:
    task = ready(tiny_encoder, rows=ROWS[:2])
    found = contract(task, {"train": examples(ROWS[:2]), "test": examples(ROWS[2:3], "test.jsonl")})
    assert [(one.severity, one.where) for one in found["unanswerable"]] == [("warning", "test.jsonl:1")]
    task = ready(tiny_encoder, rows=ROWS[:2], unanswerable=True)
    assert "all-answerable" in contract(task, {"train": examples(ROWS[:2])})


def test_truncation_that_loses_answers_is_told(tiny_encoder: Path) -> None:
    """fault 13"""
    task = ready(tiny_encoder, max_length=20, overflow="truncate")
    (cut,) = contract(task, {"train": examples()})["cut-answer"]
    assert (cut.where, cut.count) == ("train.jsonl:4", 1)
    assert "task.overflow=window" in str(cut.help)
    (feature,) = task.encode(examples()[3])
    assert feature["window_weight"].tolist() == [0.0]
    assert feature["labels"].tolist() == [-100, -100]


def test_flat_rows_of_every_source_are_read_alike(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {"question": "who ?", "context": CONTEXT, "answers": {"text": ["anna"], "answer_start": [8]}},
        {"question": "company ?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    quoted = json.dumps(rows[0]["answers"]).replace('"', '""')
    table = f'question,passage,answers\nwho ?,{CONTEXT},"{quoted}"\ncompany ?,{CONTEXT},\n'
    (tmp_path / "b.csv").write_text(table, encoding="utf-8")
    plain = f"question,context,answer,answer_start\nwho ?,{CONTEXT},anna,8\ncompany ?,{CONTEXT},,\n"
    (tmp_path / "c.csv").write_text(plain, encoding="utf-8")
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    qas = [
        {"id": str(n), "question": r["question"], "answers": [{"text": "anna", "answer_start": 8}] if n == 0 else []}
        for n, r in enumerate(rows)
    ]
    document = {"data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}
    (tmp_path / "e.json").write_text(json.dumps(document), encoding="utf-8")
    for name in ("a.jsonl", "b.csv", "c.csv", "d.parquet", "e.json"):
        source = ["data=squad"] if name == "e.json" else []
        config = compose(["task=qa", *source, f"data.train={tmp_path / name}", "data.validation_fraction=0"]).config
        task = Qa(QaConfig())
        found = [task.gold(one)["answers"] for one in load_splits(config.data, task).examples["train"]]
        assert found == [["anna"], []], name


# Features and loss --------------------------------------------------------------------------------


def test_labels_are_the_first_and_last_token_of_the_answer(task: Qa) -> None:
    (example,) = examples([{**ROWS[0], "answers": "oslo with a good"}])
    (feature,) = task.encode(example)
    start, end = feature["labels"]
    tokens = task.tokenizer.convert_ids_to_tokens(feature["input_ids"][start : end + 1].tolist())
    assert tokens == ["oslo", "with", "a", "good"]
    assert feature["window_weight"].tolist() == [1.0]


def test_windows_without_the_answer_point_to_the_first_token(task: Qa) -> None:
    features = task.encode(examples()[3])
    held = [tuple(feature["labels"].tolist()) != (0, 0) for feature in features]
    assert len(features) > 1 and held[-1] and not all(held)
    assert sum(float(feature["window_weight"][0]) for feature in features) == pytest.approx(1.0)
    assert sum(float(f["window_weight"][0]) for f, one in zip(features, held, strict=True) if one) == pytest.approx(
        0.5
    )


def test_every_question_counts_once(task: Qa) -> None:
    assert task.num_targets(batch_of(task, examples())) == pytest.approx(len(ROWS))


def test_loss_does_not_depend_on_how_windows_are_batched(task: Qa, model: PreTrainedModel) -> None:
    features = [feature for one in examples() for feature in task.encode(one)]
    with torch.inference_mode():
        whole = batch_of(task, examples())
        together = float(task.loss(model(**whole.inputs), whole))
        alone = [task.collate([feature], [0]) for feature in features]
        apart = sum(float(task.loss(model(**one.inputs), one)) for one in alone)
    assert together == pytest.approx(apart, rel=1e-5)
    assert together > 0


def test_prediction_has_no_targets(task: Qa, model: PreTrainedModel) -> None:
    example = task.read_input({"question": "who ?", "context": CONTEXT}, where="x:1")
    with torch.inference_mode():
        result = task.infer(model, batch_of(task, [example]))
    assert result.losses == {"": (0.0, 0.0)}


# Scores -------------------------------------------------------------------------------------------


def test_threshold_is_chosen_for_the_best_f1(task: Qa) -> None:
    """By hand: the sure answer is right, the next one stands where there is none."""

    def prediction(difference: float, answer: str) -> Prediction:
        return {"null_score_difference": difference, "n_best": [{"answer": ""}, {"answer": answer}]}

    pairs = [(examples()[0], prediction(-3.0, "anna")), (examples()[2], prediction(-1.0, "house"))]
    chosen = task.tuned(pairs)
    assert isinstance(chosen, QaConfig) and chosen.null_threshold == -2.0
    pairs[0] = (examples()[0], prediction(1.0, "anna"))
    assert parse(QaConfig, {"name": "qa"}) == QaConfig()
    chosen = task.tuned(pairs)
    assert isinstance(chosen, QaConfig) and chosen.null_threshold != "auto"
    nothing = task.tuned(())
    assert isinstance(nothing, QaConfig) and nothing.null_threshold == 0.0


def test_mistake_marks_both_answers_on_the_context(task: Qa) -> None:
    example = examples()[0]
    place = CONTEXT.index("oslo")
    wrong: Prediction = {"answer": "oslo", "start": place, "end": place + 4, "score": 0.9}
    mistake = task.mistake(example, wrong)
    assert mistake is not None and mistake.badness == pytest.approx(0.9)
    shown = {
        side: [mistake.text[m.start : m.end] for m in marks]
        for side, marks in (("gold", mistake.gold_marks), ("predicted", mistake.predicted_marks))
    }
    assert shown == {"gold": ["person ?", "anna"], "predicted": ["person ?", "oslo"]}
    assert task.mistake(example, {"answer": "Anna.", "start": 8, "end": 12, "score": 0.9}) is None
    none = task.mistake(examples()[2], wrong)
    assert none is not None and (none.gold, len(none.gold_marks)) == ("(no answer)", 1)
    nothing = task.mistake(example, {"answer": "", "start": None, "end": None, "score": 0.5})
    assert nothing is not None and (nothing.predicted, len(nothing.predicted_marks)) == ("(no answer)", 1)


def test_baselines_guess_by_words_in_common(task: Qa) -> None:
    context = "Ada lived in London. Then she wrote in 1843 the notes on it. She liked music."
    rows = examples([{"question": "When had she wrote notes?", "context": context, "answers": "1843"}])
    others = [f"In {place} she was on the old ship." for place in ("rome", "lima", "oslo", "quito")]
    train = [*rows, *examples([{"question": "x", "context": other, "answers": ""} for other in others])]
    guess = task.baselines(train)
    given = {name: answer(rows[0]) for name, answer in guess.items()}
    assert given["first_sentence"] == "Ada lived in London."
    assert given["best_sentence"] == "Then she wrote in 1843 the notes on it."
    assert given["window"] == "1843"
    assert given["no_answer"] == ""


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    zh = examples([{"question": "哪里？", "context": "安娜住在奥斯陆。", "answers": "奥斯陆"}])[0]
    assert Qa(QaConfig()).gold(zh)["compared"] == "characters"
    assert Qa(QaConfig(compare="words")).gold(zh)["compared"] == "words"
    assert Qa(QaConfig()).gold(examples()[0])["compared"] == "words"

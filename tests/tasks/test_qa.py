"""The qa task: data, features, loss, prediction, what is chosen on validation, mistakes, and learning."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel

from chainft.config.compose import compose
from chainft.config.joint import JointConfig
from chainft.config.parse import parse
from chainft.config.run import ModelConfig
from chainft.data.batching import Batch
from chainft.data.contract import check_contract
from chainft.data.example import Example, Finding, Origin, Split
from chainft.data.load import Splits, load_splits
from chainft.errors import ConfigError, DataError
from chainft.infer.engine import Engine
from chainft.infer.trained import load_run
from chainft.models.load import load_config, load_model
from chainft.stages.compare import compare
from chainft.stages.gates import Gates
from chainft.stages.packing import packing_of
from chainft.stages.spans import Span
from chainft.stages.trunk_load import build_joint
from chainft.tasks.base import Prediction
from chainft.tasks.joint import Joint
from chainft.tasks.qa import Qa, QaConfig
from chainft.text.best_answers import Raw

CONTEXT = "the old anna visited oslo with a good report . near the river ben sold the house . "
LONG = CONTEXT * 4 + "clara left quito yesterday ."
ROWS: list[dict[str, Any]] = [
    {"question": "person ?", "context": CONTEXT, "answers": "anna"},
    {"question": "city ?", "context": CONTEXT, "answers": "oslo"},
    {"question": "company ?", "context": CONTEXT, "answers": ""},
    {"question": "who left ?", "context": LONG, "answers": "clara"},
    {"question": "company ?", "context": LONG, "answers": []},
]


def examples(rows: Sequence[dict[str, Any]] = ROWS, file: str = "train.jsonl") -> list[Example]:
    return [Example(row, Origin(file, line)) for line, row in enumerate(rows, 1)]


def ready(folder: Path, *, max_length: int = 48, rows: Sequence[dict[str, Any]] = ROWS, **settings: Any) -> Qa:
    task = Qa(parse(QaConfig, {"name": "qa", **settings}))
    task.learn_labels({"train": examples(rows)}, unseen="error")
    task.adapt(load_config(ModelConfig(path=str(folder))))
    task.prepare(AutoTokenizer.from_pretrained(folder), max_length=max_length)
    return task


def model_of(folder: Path, task: Qa) -> PreTrainedModel:
    """A random head with large weights, so that its answers are of every kind."""
    model = load_model(ModelConfig(path=str(folder)), task, seed=3).model.eval()
    torch.nn.init.normal_(model.get_submodule("qa_outputs").weight, std=2.0)
    return model


@pytest.fixture(scope="module")
def task(tiny_encoder: Path) -> Qa:
    return ready(tiny_encoder)


@pytest.fixture(scope="module")
def model(tiny_encoder: Path, task: Qa) -> PreTrainedModel:
    return model_of(tiny_encoder, task)


def batch_of(task: Qa, rows: Sequence[Example]) -> Batch:
    features = [feature for one in rows for feature in task.encode(one)]
    return task.collate(features, range(len(features)))


def answered(task: Qa, model: PreTrainedModel, rows: Sequence[Example], batch_size: int = 8) -> list[Prediction]:
    from contextlib import nullcontext

    return [one.prediction for one in Engine(model, task, batch_size, autocast=nullcontext).predict(iter(rows))]


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


# Models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bart", "t5"])
def test_other_kinds_of_models_answer(kind: str, writer: Callable[[str], Path]) -> None:
    """Decoders and encoder-decoders, by heads that transformers has; batches change nothing."""
    task = ready(writer(kind))
    model = load_model(ModelConfig(path=str(writer(kind))), task, seed=0).model.eval()
    one, many = (answered(task, model, examples(), size) for size in (1, 8))
    assert [found["answer"] for found in one] == [found["answer"] for found in many]
    batch = batch_of(task, examples())
    loss = task.loss(model(**batch.inputs), batch)
    assert np.isfinite(loss.item())


def test_body_of_a_language_model_is_read_though_its_head_calls_it_otherwise(
    writer: Callable[[str], Path], tmp_path: Path
) -> None:
    """transformers 5.23 leaves `LlamaForQuestionAnswering` random; saved again, it loads whole in plain transformers."""
    from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering

    task = ready(writer("llama"))
    loaded = load_model(ModelConfig(path=str(writer("llama"))), task, seed=0)
    body = AutoModelForCausalLM.from_pretrained(writer("llama")).model.state_dict()
    for name, value in loaded.model.base_model.state_dict().items():
        assert torch.equal(value, body[name]), name
    assert set(loaded.new) == {"qa_outputs.weight", "qa_outputs.bias"}
    loaded.model.save_pretrained(tmp_path)
    again, facts = AutoModelForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not facts["missing_keys"]
    for name, value in again.state_dict().items():
        assert torch.equal(value, loaded.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["encoder", "llama", "bart"])
def test_stages_one_by_one_equal_the_whole(kind: str, tiny_encoder: Path, writer: Callable[[str], Path]) -> None:
    task = ready(tiny_encoder if kind == "encoder" else writer(kind))
    model = load_model(ModelConfig(path=str(tiny_encoder if kind == "encoder" else writer(kind))), task, seed=0).model
    batch = batch_of(task, examples())
    gates = Gates(model.eval())
    last = gates.blocks.num_blocks
    spans = [Span(0, 1, embeddings=True, head=False), Span(1, last, embeddings=False, head=True)]
    found = compare(gates, spans, batch.inputs, lambda output: task.loss(output, batch))
    assert (found.output, found.loss, found.missing) == (0.0, 0.0, ())
    assert max(found.gradient, found.shared_gradient) <= 1e-6


@pytest.mark.parametrize("kind", ["encoder", "llama"])
def test_batches_without_padding_have_the_same_loss(
    kind: str, tiny_encoder: Path, writer: Callable[[str], Path]
) -> None:
    folder = tiny_encoder if kind == "encoder" else writer(kind)
    task = ready(folder)
    model = load_model(ModelConfig(path=str(folder)), task, seed=0).model.eval()
    packing = packing_of(model)
    assert packing is not None
    batch = batch_of(task, examples())
    with torch.inference_mode():
        padded = task.loss(model(**batch.inputs), batch)
        packed = task.loss(packing.run(batch.inputs, batch.lengths.numpy()), batch)
    assert float(packed) == pytest.approx(float(padded), rel=1e-5)


def test_beside_another_head_it_answers_as_by_itself(tiny_encoder: Path) -> None:
    """Several heads on one trunk: windows of questions are rows beside those of other tasks."""
    task = Joint(parse(JointConfig, {"name": "joint", "tasks": {"qa": {"name": "qa"}, "mood": {"name": "classify"}}}))
    rows = [Example({"qa": row.values}, row.origin) for row in examples()]
    moods = [Example({"mood": {"text": text, "label": text}}, Origin("m", 1)) for text in ("good", "bad")]
    task.learn_labels({"train": [*rows, *moods]}, unseen="error")
    task.prepare(AutoTokenizer.from_pretrained(tiny_encoder), max_length=48)
    model: Any = build_joint(ModelConfig(path=str(tiny_encoder)), task, seed=0).model.eval()
    features = [feature for one in [*rows, *moods] for feature in task.encode(one)]
    with torch.inference_mode():
        found = task.infer(model, task.collate(features, range(len(features))))
    alone = task.tasks["qa"]
    assert isinstance(alone, Qa)
    expected = answered(alone, model.head("qa"), examples())
    place = 0
    for row, one in zip(rows, expected, strict=True):
        count = len(task.encode(row))
        given = task.decode(row, features[place : place + count], found.raw[place : place + count])["qa"]
        assert given["n_best"][0]["score"] == pytest.approx(one["n_best"][0]["score"], abs=1e-5)
        assert given["answer"] == one["answer"]
        place += count
    assert task.needs_tuning


# Runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Small questions by kind of word; a third of those for a company have no answer, some contexts are windows."""
    folder = tmp_path_factory.mktemp("qa")
    people, places, companies = (["anna", "ben", "clara"], ["oslo", "paris", "rome"], ["acme", "globex"])
    for split, count in (("train", 120), ("validation", 24), ("test", 24)):
        rows = []
        for number in range(count):
            person, place, company = people[number % 3], places[number // 3 % 3], companies[number // 9 % 2]
            text = f"the old {person} visited {place} with a good report . "
            text += "near the river " * (14 if number % 8 == 0 else 0)
            text += f"{company} sold it ." if number // 2 % 3 else "."
            kind = ("person", "city", "company")[number % 7 % 3]
            answer = {"person": person, "city": place, "company": company if number // 2 % 3 else ""}[kind]
            rows.append({"question": f"{kind} ?", "context": text, "answers": answer})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return ["task=qa", *(f"data.{split}={folder / split}.jsonl" for split in ("train", "validation", "test"))]


def trained(words: Sequence[str], run: Path) -> dict[str, Any]:
    from chainft.train.session import run_training

    return run_training(compose([*words, f"run={run}", "train.batch_size=16", "report.enabled=false"]))


@pytest.mark.slow
def test_training_learns_to_answer_and_when_not_to(tiny_encoder: Path, files: list[str], tmp_path: Path) -> None:
    """By the whole training in this process: loss falls, the threshold is tuned and kept, baselines are beaten."""
    words = [*files, f"model={tiny_encoder}", "optimizer.lr=0.003", "train.num_train_epochs=16"]
    results = trained(words, tmp_path / "run")
    before, after = (results["test"][when]["values"] for when in ("before", "after"))
    assert after["answer_f1"] > 0.8 > before["answer_f1"] + 0.3
    assert after["answer_f1"] > max(values["answer_f1"] for values in results["baselines"].values())
    assert after["no_answer_accuracy"] > 0.5
    loaded = load_run(tmp_path / "run")
    assert isinstance(loaded.task, Qa) and loaded.task.may_abstain
    assert loaded.task.config.null_threshold == results["tuned"]["null_threshold"] != "auto"
    asked = {"question": "city ?", "context": "the old ben visited rome with a good report ."}
    (found,) = answered(loaded.task, loaded.model, [loaded.task.read_input(asked, where="x:1")])
    assert found["answer"] == "rome"


@pytest.mark.parametrize(
    "chain",
    [
        ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"],
        ["chain=cascade", "chain.stages.first.auxiliary.weight=0.5"],
    ],
    ids=["frozen", "linked"],
)
def test_chains_train_and_are_loaded_again(
    chain: list[str], tiny_encoder: Path, files: list[str], tmp_path: Path
) -> None:
    """Frozen stages come from the prefix cache, linked models have a head of their own class."""
    words = [*files, f"model={tiny_encoder}", "optimizer.lr=0.003", "train.num_train_epochs=2", *chain]
    results = trained(words, tmp_path / "run")
    plan = json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))
    if chain[0] == "chain.split=2":
        assert plan["prefix_cache"]["computed_bytes"] > 0
    else:
        assert plan["model"]["class"] == "LinkedForQuestionAnswering"
    loaded = load_run(tmp_path / "run")
    rows = load_splits(compose(words).config.data, loaded.task).examples["test"]
    found = answered(loaded.task, loaded.model, rows)
    lines = (tmp_path / "run" / "predictions" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    expected = [json.loads(line)["prediction"] for line in lines]
    assert [one["answer"] for one in found] == [one["answer"] for one in expected]
    assert results["test"]["after"]["values"]["loss"] > 0


@pytest.mark.slow
def test_the_command_trains_and_answers_objects_alone(
    chainft: Callable[..., Any], tiny_encoder: Path, files: list[str], tmp_path: Path
) -> None:
    done = chainft("train", *files, f"model={tiny_encoder}", "train.max_steps=2", "run=run")
    assert done.returncode == 0, done.stderr
    assert "--file inputs.jsonl" in done.stderr
    asked = {"question": "city ?", "context": "the old ben visited rome ."}
    (tmp_path / "asked.jsonl").write_text(json.dumps(asked) + "\n", encoding="utf-8")
    by_word, by_file = chainft("predict", "run", json.dumps(asked)), chainft("predict", "run", "--file", "asked.jsonl")
    assert by_word.returncode == 0, by_word.stderr
    assert by_word.stdout == by_file.stdout
    assert {"answer", "score", "start", "end", "n_best"} <= json.loads(by_word.stdout).keys()
    refused = chainft("predict", "run", "where is ben ?")
    assert refused.returncode == 3
    assert "needs the context" in refused.stderr and "Traceback" not in refused.stderr
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "finds the answers to questions in texts" in card
    assert "chainft predict path/to/this/folder '{" in card

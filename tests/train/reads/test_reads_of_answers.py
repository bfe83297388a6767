"""Evaluations and predictions compute the last hidden states for those tokens alone that answers are made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from chainft.infer.predict import make_engine, predictions, read_examples
from chainft.infer.reads import find_reads
from chainft.infer.trained import Trained, load_run
from chainft.stages.packing import Packing, packing_of
from chainft.tasks.ner import Ner

Train = Callable[..., dict[str, Any]]
WORDS = ("paris", "oslo", "rome", "anna", "ben", "lima", "acme", "emil")


def rows_of(trained: Trained, texts: list[str]) -> list[Any]:
    """Their features."""
    return [window for text in texts for window in trained.task.encode(trained.task.read_input(text, where="x"))]


@pytest.mark.parametrize("task", ["classify", "ner"])
def test_evaluations_run_without_padding_and_read_all_that_answers_need(
    train: Train, ner_files: list[str], monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    kept: list[bool] = []
    run = Packing.run

    def noted(self: Packing, *args: Any, **kwargs: Any) -> Any:
        if torch.is_inference_mode_enabled():
            kept.append(kwargs["read"] is not None)
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Packing, "run", noted)
    words = ["task=ner", *ner_files] if task == "ner" else []
    found = train(*words, "train.max_steps=2")
    assert found["plan"]["read_tokens_only"] and kept and all(kept)
    kept.clear()
    train(*words, "train.max_steps=2", "train.padding_free=false", name="padded")
    assert not kept


@pytest.mark.parametrize("model", ["tiny_encoder", "tiny_decoder"])
def test_predictions_of_texts_without_labels_read_the_same_tokens(
    train: Train, model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    train(f"model={request.getfixturevalue(model)}")
    trained = load_run(tmp_path / "run")
    texts = [f"{word} and {' '.join(WORDS[:n])}" for n, word in enumerate(WORDS)] * 3

    def answer(probes: int) -> tuple[list[Any], Any]:
        engine = make_engine(trained, batch_size=4, device="cpu")
        examples = read_examples(trained.task, texts, form="lines", source="texts")
        return list(predictions(engine, examples, probes=probes)), engine.forward

    plain, without = answer(0)
    found, forward = answer(32)
    assert without is None and forward.packing is not None and forward.reads is not None
    assert [one["label"] for one in found] == [one["label"] for one in plain]
    for one, other in zip(found, plain, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=2e-4)


@pytest.mark.parametrize("is_written", [False, True])
def test_texts_that_come_again_are_computed_once_but_where_each_is_written_anew(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    train("train.max_steps=1")
    trained = load_run(tmp_path / "run")
    monkeypatch.setattr(type(trained.task), "evaluates_by_forward", not is_written)
    engine = make_engine(trained, batch_size=2, device="cpu")
    rows: list[int] = []
    forward = engine._forward

    def counted(some: Any, numbers: Any) -> Any:
        rows.append(len(some))
        return forward(some, numbers)

    monkeypatch.setattr(engine, "_forward", counted)
    texts = ["anna met ben", "oslo", "anna met ben", "lima and rome", "oslo", "anna met ben", ""]

    def answers(some: list[str]) -> list[Any]:
        found = engine.predict(read_examples(trained.task, some, form="lines", source="texts"))
        return [(one.index, one.example.values["text"], one.prediction) for one in found]

    found = answers(texts)
    assert sum(rows) == (7 if is_written else 4)
    assert [(index, text) for index, text, _ in found] == list(enumerate(texts))
    for _, text, prediction in found:
        ((_, _, alone),) = answers([text])
        assert prediction["label"] == alone["label"]
        assert prediction["scores"] == pytest.approx(alone["scores"], abs=1e-5)


def test_an_answer_without_scores_does_not_hide_what_is_read(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest of NaN is the first: a head that mostly answers the first label would seem to read nothing else."""
    train("train.max_steps=1")
    trained = load_run(tmp_path / "run")
    pooler = "transformers.models.bert.modeling_bert.BertPooler.forward"
    monkeypatch.setattr(pooler, lambda self, states: self.activation(self.dense(states.mean(dim=1))))
    with torch.no_grad():
        trained.model.classifier.bias.copy_(torch.tensor([9.0, 0.0]))
    monkeypatch.setattr(type(trained.task), "raw", lambda self, output, batch: output.logits.argmax(-1).tolist())
    packing = packing_of(trained.model)
    assert packing is not None
    examples = read_examples(trained.task, [f"{word} and anna" for word in WORDS * 3], form="lines", source="texts")
    rows = [window for example in examples for window in trained.task.encode(example)]
    assert find_reads(packing, trained.task, rows, answers=True) is None


def test_predicted_tags_read_the_tokens_of_words_and_few_texts_run_as_they_are(
    train: Train, ner_files: list[str], tmp_path: Path
) -> None:
    train("task=ner", "data=conll", *ner_files)
    trained = load_run(tmp_path / "run")

    def answer(texts: list[str], probes: int = 32) -> tuple[list[Any], Any]:
        engine = make_engine(trained, batch_size=4, device="cpu")
        examples = read_examples(trained.task, texts, form="lines", source="texts")
        return list(predictions(engine, examples, probes=probes)), engine.forward

    texts = [f"{' '.join(WORDS[: n % 5])} anna-ben{n}" for n in range(20)]
    found, many = answer(texts)
    rows = rows_of(trained, texts)
    batch = trained.task.collate(rows, list(range(len(rows))))
    assert (many.reads.of(batch) == (batch.targets["word_ids"].numpy() >= 0)).all()
    plain, without = answer(texts, probes=0)
    assert without is None and [one["tags"] for one in found] == [one["tags"] for one in plain]
    assert answer(["anna lives in rome"])[1] is None


def test_short_sentences_do_not_make_taggers_read_first_tokens_alone(
    train: Train, tiny_decoder: Path, ner_files: list[str], tmp_path: Path
) -> None:
    """Without special tokens, of a text of one word of several sub-words the first token is all that is read."""
    bare = shutil.copytree(tiny_decoder, tmp_path / "bare")
    written = json.loads((bare / "tokenizer.json").read_text(encoding="utf-8"))
    (bare / "tokenizer.json").write_text(json.dumps(written | {"post_processor": None}), encoding="utf-8")
    train(f"model={bare}", "task=ner", "data=conll", *ner_files, "train.max_steps=2")
    trained = load_run(tmp_path / "run")
    with torch.no_grad():
        trained.model.score.bias.copy_(torch.linspace(0, 9, len(trained.task.labels.names)))  # What is not read is O.
    texts = ["zoe", "kim", "maxs"] * 14 + [f"{' '.join(WORDS[:n])} anna" for n in range(4, 8)]
    rows = rows_of(trained, texts)
    assert [row["word_ids"].tolist() for row in rows[:2]] == [[0, -1, -1]] * 2
    packing = packing_of(trained.model)
    assert packing is not None
    reads = find_reads(packing, trained.task, rows, answers=True)
    batch = trained.task.collate(rows[-4:], list(range(4)))
    assert reads is not None and (reads.of(batch) == (batch.targets["word_ids"].numpy() >= 0)).all()

    def tags(probes: int) -> list[Any]:
        engine = make_engine(trained, batch_size=4, device="cpu")
        examples = read_examples(trained.task, texts, form="lines", source="texts")
        return [one["tags"] for one in predictions(engine, examples, probes=probes)]

    assert tags(32) == tags(0)


def test_tags_are_read_where_the_gold_tag_is_not_known_too(
    train: Train, ner_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    run = Packing.run

    def noted(self: Packing, *args: Any, **kwargs: Any) -> Any:
        kept.append((torch.is_inference_mode_enabled(), kwargs["read"]))
        return run(self, *args, **kwargs)

    encode = Ner.encode

    def unknown(self: Ner, example: Any) -> Any:
        rows = encode(self, example)
        for row in rows:
            row["labels"][row["word_ids"] == 1] = -100
        return rows

    monkeypatch.setattr(Packing, "run", noted)
    monkeypatch.setattr(Ner, "encode", unknown)
    found = train("task=ner", *ner_files, "train.max_steps=1", f"data.cache_dir={tmp_path / 'cache'}")
    task, store = found["learner"].task, found["learner"].store
    batch = task.collate([store[row] for row in range(8)], list(range(8)))
    words, known = (batch.targets[name].numpy() for name in ("word_ids", "labels"))
    reads = find_reads(found["learner"].forward.packing, task, store, answers=True)
    assert reads is not None and (reads.of(batch) == (words >= 0)).all()
    assert (words[known == -100] == 1).any()
    assert all(read is not None for evaluates, read in kept if evaluates) and any(evaluates for evaluates, _ in kept)


def test_a_head_that_looks_at_neighbours_answers_for_words_from_all_tokens(
    train: Train, ner_files: list[str], tmp_path: Path
) -> None:
    train("task=ner", "data=conll", *ner_files, "train.max_steps=1")
    trained = load_run(tmp_path / "run")
    head = trained.model.classifier.forward
    trained.model.classifier.forward = lambda hidden: head(hidden + hidden.roll(1, dims=1))
    packing = packing_of(trained.model)
    assert packing is not None
    rows = rows_of(trained, [f"{word} anna" for word in WORDS * 3])
    assert find_reads(packing, trained.task, rows, answers=True) is None


def test_answers_made_of_all_tokens_read_all(
    train: Train, ner_files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tags of a model that always says the same stay the same, whatever is left out."""
    train("task=ner", "data=conll", *ner_files, "train.max_steps=1")
    trained = load_run(tmp_path / "run")
    with torch.no_grad():
        trained.model.classifier.bias[0] += 9.0

    def raw(self: Any, output: Any, batch: Any) -> Any:
        return [output.logits.argmax(-1).tolist(), batch.targets["word_ids"].tolist()]

    monkeypatch.setattr(type(trained.task), "raw", raw)
    packing = packing_of(trained.model)
    assert packing is not None
    rows = rows_of(trained, [f"{word} anna" for word in WORDS * 3])
    assert find_reads(packing, trained.task, rows, answers=True) is None

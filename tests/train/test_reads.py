"""Which tokens' last hidden states tasks read, as found by trying."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from chainft.config.compose import compose
from chainft.config.saved import compose_resumed
from chainft.data.batching import Batch
from chainft.errors import ChainftError
from chainft.infer.predict import make_engine, predictions, read_examples
from chainft.infer.reads import find_reads
from chainft.infer.trained import Trained, load_run
from chainft.stages.packing import Packing, packing_of
from chainft.tasks.ner import Ner
from chainft.train.learner import Learner
from chainft.train.session import run_training

Train = Callable[..., dict[str, Any]]
WORDS = ("paris", "oslo", "rome", "anna", "ben", "lima", "acme", "emil")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name small files of good and bad texts of different lengths."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [
        (f"{word} and {' '.join(WORDS[:n])} {mood}", mood) for n, word in enumerate(WORDS) for mood in ("good", "bad")
    ]
    for split in ("train", "validation", "test"):
        lines = "".join(f"{text} {split},{label}\n" for text, label in rows)
        (folder / f"{split}.csv").write_text(f"text,label\n{lines}", encoding="utf-8")
    return [f"data.{split}={folder / split}.csv" for split in ("train", "validation", "test")]


@pytest.fixture
def train(tiny_encoder: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Train]:
    """Trains a classifier for eight steps with more settings; results, losses, plan, and the learner."""
    learners: list[Learner] = []
    begin = Learner.__init__

    def noted(self: Learner, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        learners.append(self)

    monkeypatch.setattr(Learner, "__init__", noted)
    handlers = list(logging.getLogger().handlers)

    def run(*words: str, name: str = "run") -> dict[str, Any]:
        settings = [f"model={tiny_encoder}", "train.batch_size=4", "train.num_train_epochs=2", "optimizer.lr=0.005"]
        settings += ["report.enabled=false", f"run={tmp_path / name}", "task=classify", "data=csv"]
        settings += [] if "data=joint" in words else texts
        kept = [one for one in settings if one.split("=")[0] not in {word.split("=")[0] for word in words}]
        AcceleratorState._reset_state(reset_partial_state=True)
        resumed = "resume=true" in words
        results = run_training(compose_resumed(str(tmp_path / name), []) if resumed else compose([*kept, *words]))
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [record["loss"] for record in map(json.loads, lines) if record["kind"] == "train"]
        plan = json.loads((tmp_path / name / "plan.json").read_text(encoding="utf-8"))
        return {**results, "losses": losses, "plan": plan, "learner": learners[-1]}

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)
    for handler in logging.getLogger().handlers[:]:
        if handler not in handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()


def rows_of(trained: Trained, texts: list[str]) -> list[Any]:
    """Their features."""
    return [window for text in texts for window in trained.task.encode(trained.task.read_input(text, where="x"))]


TOP = ["chain.split=2", "chain.stages.stage1.dropout=0"]
NO_DROPOUT = [*TOP, "chain.stages.stage0.dropout=0"]
FROZEN = [*TOP, "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"]
LORA = ["chain.stages.stage1.lora.r=2"]


def read_of(results: dict[str, Any]) -> tuple[Batch, np.ndarray]:
    learner = results["learner"]
    (batch,) = learner.micro_batches_of(0)
    return batch, learner.forward.reads.of(batch)


@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        (NO_DROPOUT, 1e-5),
        (FROZEN, 1e-5),
        ([*FROZEN, *LORA], 1e-5),
        ([*NO_DROPOUT, "train.mixed_precision=bf16"], 3e-2),
        ([*FROZEN, "chain.stages.stage0.dtype=bfloat16"], 3e-2),
        ([*NO_DROPOUT, "train.micro_batch_size=1"], 1e-5),
    ],
    ids=lambda value: " ".join(value[2:]) if isinstance(value, list) else "",
)
def test_training_on_first_tokens_is_training_on_all(train: Train, words: list[str], tolerance: float) -> None:
    found = train(*words)
    assert found["plan"]["read_tokens_only"]
    whole = train(*words, "train.padding_free=false", name="padded")
    assert not whole["plan"]["read_tokens_only"]
    assert found["losses"] == pytest.approx(whole["losses"], abs=tolerance)
    values = found["test"]["after"]["values"]
    assert values["loss"] == pytest.approx(whole["test"]["after"]["values"]["loss"], abs=tolerance)


def test_kept_states_come_end_to_end_as_they_come_in_rows(train: Train) -> None:
    learner = train(*FROZEN)["learner"]
    lender, rows = learner.forward.lender, [9, 0, 12, 3, 1]  # Lengths fall and rise.
    batch = learner.task.collate([learner.store[row] for row in rows], rows)
    lengths = batch.lengths.numpy()
    assert sorted(lengths) not in (lengths.tolist(), lengths[::-1].tolist())
    padded = lender.states(batch)
    for order in (np.argsort(lengths, kind="stable"), np.array([2, 4, 0, 1, 3])):
        expected = torch.cat([padded[row, : lengths[row]] for row in order])
        assert torch.equal(lender.packed(batch, order), expected)


def test_a_head_with_a_mode_of_its_own_learns_after_evaluations(
    train: Train, ner_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merged in evaluation, it must be told that training goes on: `train(True)`, not a flag."""
    plain, settings = train("task=ner", *ner_files, *NO_DROPOUT, name="plain"), {}

    def merging(self: nn.Linear, mode: bool = True) -> nn.Linear:
        nn.Module.train(self, mode)
        settings[self] = None if mode else self.weight.detach().clone()
        return self

    def forward(self: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(hidden, self.weight if settings.get(self) is None else settings[self], self.bias)

    merging_head = type("MergingHead", (nn.Linear,), {"train": merging, "forward": forward})
    begin = Learner.__init__

    def with_head(self: Learner, model: Any, *args: Any, **kwargs: Any) -> None:
        model.classifier.__class__ = merging_head
        begin(self, model, *args, **kwargs)

    monkeypatch.setattr(Learner, "__init__", with_head)
    found = train("task=ner", *ner_files, *NO_DROPOUT)
    assert found["losses"] == plain["losses"]


def test_a_frozen_body_needs_no_block_at_all(train: Train) -> None:
    words = ["chain.stages.body={blocks: 'embeddings, :', frozen: true, eval_mode: true}"]
    words += ["chain.stages.top={blocks: head}", "chain.order=[body,top]"]
    found = train(*words)
    assert found["plan"]["padding_free"] and found["plan"]["prefix_cache"]["used"]
    plain = train(*words, "train.padding_free=false", "cache.prefix=false", name="plain")
    assert found["losses"] == pytest.approx(plain["losses"], abs=1e-5)


def test_a_broken_run_goes_on_bit_for_bit(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("checkpoint.every=3", name="whole")
    update = Learner.begin

    def broken(self: Learner, step: int) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return update(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "begin", broken)
        with pytest.raises((KeyboardInterrupt, ChainftError)):
            train("checkpoint.every=3")
    again = train("resume=true")
    assert again["plan"]["from_step"] == 4 and again["losses"] == whole["losses"]
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]


def test_text_heads_of_encoders_read_first_tokens(train: Train) -> None:
    _, read = read_of(train())
    assert read[:, 0].all() and read.sum() == len(read)


def test_text_heads_of_decoders_read_last_tokens(train: Train, tiny_decoder: Path) -> None:
    batch, read = read_of(train(f"model={tiny_decoder}"))
    assert read.argmax(axis=1).tolist() == (batch.lengths.numpy() - 1).tolist() and read.sum() == len(read)


def test_taggers_read_tokens_with_a_tag(train: Train, ner_files: list[str]) -> None:
    batch, read = read_of(train("task=ner", *ner_files))
    assert (read == (batch.targets["labels"].numpy() != -100)).all()


@pytest.mark.parametrize("words", [[], ["train.mixed_precision=bf16"]], ids=["fp32", "bf16"])
def test_the_head_of_taggers_runs_for_these_alone(train: Train, ner_files: list[str], words: list[str]) -> None:
    assert train("task=ner", *ner_files, *words)["plan"]["read_tokens_head"]
    assert not train(*words, name="texts")["plan"]["read_tokens_head"]


def test_writers_read_the_tokens_before_those_of_the_answer(
    train: Train, tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"anna met {word}", "response": f"{word} met anna"} for word in WORDS * 2]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["task=generate", "data=jsonl", f"model={tiny_decoder}", f"data.train={tmp_path / 'pairs.jsonl'}"]
    words += ["data.validation=null", "data.test=null", "task.max_new_tokens=4", "train.max_steps=2"]
    found = train(*words)
    batch, read = read_of(found)
    assert (read == (batch.targets["labels"].numpy() != -100)).all() and not read.all()
    plain = train(*words, "train.padding_free=false", name="plain")
    assert found["losses"] == pytest.approx(plain["losses"], abs=1e-5)
    assert found["plan"]["logits_in_loss"] and plain["plan"]["logits_in_loss"]
    monkeypatch.setattr("chainft.train.session.find_deferred_head", lambda *_: None)
    whole = train(*words, name="whole")
    assert not whole["plan"]["logits_in_loss"]
    assert found["losses"] == pytest.approx(whole["losses"], abs=1e-5)


def test_several_heads_read_what_each_reads(train: Train, texts: list[str], ner_files: list[str]) -> None:
    files = [word.replace("data.", "data.tasks.mood.") for word in texts]
    files += [word.replace("data.", "data.tasks.names.") for word in ner_files[1:]]
    tasks = ["task.tasks.names.name=ner", "task.tasks.mood.name=classify", "train.batch_size=16"]
    found = train("task=joint", "data=joint", *tasks, *files)
    batch, read = read_of(found)
    assert set(batch.shares) == {"names", "mood"}
    mood, names = batch.shares["mood"], batch.shares["names"]
    assert read[mood.rows, 0].all() and read[mood.rows].sum() == len(mood.rows)
    assert read[names.rows].sum() == (names.batch.targets["labels"] != -100).sum()


def test_a_loss_over_all_tokens_reads_all(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    head = "transformers.models.bert.modeling_bert.BertPooler.forward"
    monkeypatch.setattr(head, lambda self, states: self.activation(self.dense(states.mean(dim=1))))
    found = train()
    assert found["learner"].forward.reads is None
    assert found["plan"]["padding_free"] and not found["plan"]["read_tokens_only"]


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

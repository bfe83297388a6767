"""Which tokens' last hidden states tasks read, as found by trying."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from chainft.data.batching import Batch
from chainft.errors import ChainftError
from chainft.train.learner import Learner

Train = Callable[..., dict[str, Any]]
WORDS = ("paris", "oslo", "rome", "anna", "ben", "lima", "acme", "emil")


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

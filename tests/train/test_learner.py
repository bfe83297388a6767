"""One update: the same however the batch is cut, whatever fails on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from chainft.config.run import DataConfig, OptimizerConfig, RunConfig, SchedulerConfig, TaskConfig, TrainConfig
from chainft.data.batching import Batch
from chainft.errors import MemoryError_
from chainft.tasks.base import Column, Task
from chainft.train.learner import Course, Learner
from chainft.train.seeding import seed_step


class Store:
    """Seven examples; the third has two windows."""

    lengths = np.array([3, 9, 4, 6, 2, 8, 5, 7])
    first_of = np.array([0, 1, 2, 4, 5, 6, 7, 8])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        ids = np.arange(self.lengths[index], dtype=np.int32) % 5 + index % 3
        return {"input_ids": ids, "labels": np.where(ids % 2 == 0, ids, -100).astype(np.int32)}


class Tagger(nn.Module):
    """An embedding, dropout and a linear layer: (B, L) -> (B, L, 8)."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 6)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(6, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.embedding(input_ids)))
        return logits


class TaggerTask:
    features = {  # noqa: RUF012
        "input_ids": Column(pad=0, model_input=True),
        "labels": Column(pad=-100),
    }
    pad_token_id = 0
    collate, arguments, balanced = Task.collate, Task.arguments, Task.balanced

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        labels = batch.targets["labels"]
        return nn.functional.cross_entropy(output.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100)

    def num_targets(self, batch: Batch) -> float:
        return float((batch.targets["labels"] != -100).sum())


def learner(dropout: float = 0.0, **settings: Any) -> Learner:
    config = RunConfig(
        task=TaskConfig(name="ner"),
        data=DataConfig(name="conll"),
        train=replace(TrainConfig(batch_size=4, num_train_epochs=2), **settings),
        optimizer=OptimizerConfig(lr=0.1),
        scheduler=SchedulerConfig(name="constant", warmup_fraction=0.0),
    )
    torch.manual_seed(0)
    model: Any = Tagger(dropout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    task: Any = TaggerTask()
    store: Any = Store()
    return Learner(model, task, store, optimizer=optimizer, accelerator=Accelerator(cpu=True), config=config)


class WriterTask(TaggerTask):
    """The same for a Hugging Face model."""

    def loss(self, output: Any, batch: Batch) -> Tensor:
        return super().loss(output.logits, batch)


def decoder_learner(folder: Path) -> Learner:
    plain = learner()
    model = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    task: Any = WriterTask()
    store: Any = Store()
    return Learner(model, task, store, optimizer=optimizer, accelerator=Accelerator(cpu=True), config=plain.config)


def test_a_decoder_keeps_no_keys_and_values_in_training_and_computes_the_same(tiny_decoder: Path) -> None:
    ours, caching = decoder_learner(tiny_decoder), decoder_learner(tiny_decoder)
    caching.forward._no_cache = {}
    caches: dict[Learner, list[Any]] = {ours: [], caching: []}
    for one, kept in caches.items():
        one.plain_model.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output.past_key_values))
    assert [ours.update(step).loss for step in range(3)] == [caching.update(step).loss for step in range(3)]
    assert torch.equal(weights(ours), weights(caching))
    assert not any(caches[ours]) and all(cache is not None for cache in caches[caching])


def weights(one: Learner) -> Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in one.plain_model.parameters()])


@pytest.mark.parametrize("settings", [{"micro_batch_size": 1}, {"micro_batch_size": 3}, {"micro_batch_tokens": 12}])
def test_accumulated_is_one_batch(settings: dict[str, int]) -> None:
    whole, cut = learner(), learner(**settings)
    for step in range(4):
        one, other = whole.update(step), cut.update(step)
        assert other.loss == pytest.approx(one.loss, rel=1e-6)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
    torch.testing.assert_close(weights(cut), weights(whole), rtol=1e-5, atol=1e-7)


def test_the_loss_is_the_mean_over_all_targets_of_the_batch_not_a_mean_of_means() -> None:
    ours = learner(micro_batch_size=1)
    batches = ours.micro_batches_of(0)
    sums = sum(ours.task.loss(ours.plain_model(**batch.inputs), batch).item() for batch in batches)
    targets = sum(ours.task.num_targets(batch) for batch in batches)
    assert ours.update(0).loss == pytest.approx(sums / targets, rel=1e-6)


def test_an_example_brings_all_its_windows_once_an_epoch() -> None:
    ours = learner()
    rows = [row for step in range(ours.course.steps_per_epoch) for row in ours.rows_of(step)]
    assert sorted(rows) == list(range(8))


def test_a_step_depends_on_nothing_but_the_state_before_it() -> None:
    """Dropout included: what was drawn before, or not drawn, changes nothing."""
    straight, restarted = learner(dropout=0.5), learner(dropout=0.5)
    for step in range(3):
        straight.update(step)
    torch.rand(17)
    for step in range(2):
        restarted.update(step)
    saved = restarted.plain_model.state_dict()
    fresh = learner(dropout=0.5)
    fresh.plain_model.load_state_dict(saved)
    torch.manual_seed(99)
    fresh.update(2)
    assert torch.equal(weights(fresh), weights(straight))


def test_each_micro_batch_draws_its_own_dropout() -> None:
    def drawn(step: int, number: int) -> Tensor:
        seed_step(1, step, number, device=torch.device("cpu"))
        return torch.rand(4)

    assert torch.equal(drawn(0, 0), drawn(0, 0))
    assert not torch.equal(drawn(0, 0), drawn(0, 1))
    assert not torch.equal(drawn(0, 1), drawn(1, 0))


def failing(times: int, error: Callable[[], Exception], limit: int = 0) -> Callable[..., Any]:
    """A forward that raises `times` times, or whenever a batch has more than `limit` rows."""
    left = [times]

    def forward(module: nn.Module, arguments: Any, keywords: dict[str, Tensor]) -> None:
        if limit and keywords["input_ids"].shape[0] > limit:
            raise error()
        if not limit and left[0] > 0:
            left[0] -= 1
            raise error()

    return forward


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_gradient() -> None:
    """fault 30"""
    smooth, tight = learner(), learner()
    tight.plain_model.register_forward_pre_hook(
        failing(0, lambda: torch.OutOfMemoryError("full"), limit=1), with_kwargs=True
    )
    for step in range(2):
        assert tight.update(step).loss == pytest.approx(smooth.update(step).loss, rel=1e-6)
    assert tight.max_rows == 1
    torch.testing.assert_close(weights(tight), weights(smooth), rtol=1e-5, atol=1e-7)


def test_out_of_memory_beside_recordings_costs_those_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """fault 30"""
    ours = learner()
    ours.plain_model.register_forward_pre_hook(failing(1, lambda: torch.OutOfMemoryError("full")), with_kwargs=True)
    monkeypatch.setattr(ours.forward, "make_room", lambda: True)
    before = ours.max_rows
    assert ours.update(0).loss == pytest.approx(learner().update(0).loss, rel=1e-6)
    assert ours.max_rows == before


def test_out_of_memory_with_one_row_ends_with_the_numbers() -> None:
    """fault 30"""
    ours = learner()
    ours.plain_model.register_forward_pre_hook(failing(99, lambda: torch.OutOfMemoryError("full")), with_kwargs=True)
    with pytest.raises(MemoryError_, match="step 1 with one example at a time"):
        ours.update(0)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(where: str) -> None:
    """fault 29"""
    ours = learner()
    before = weights(ours)
    if where == "loss":
        ours.task.loss = lambda output, batch: output.sum() * float("nan")
    else:
        ours.plain_model.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    facts = ours.update(0)
    assert not facts.finite
    assert math.isnan(facts.loss) == (where == "loss")
    assert torch.equal(weights(ours), before)
    assert all(parameter.grad is None for parameter in ours.plain_model.parameters())


def test_measuring_leaves_no_trace() -> None:
    ours, other = learner(dropout=0.5), learner(dropout=0.5)
    ours.measure(0)
    assert torch.equal(weights(ours), weights(other))
    ours.update(0)
    other.update(0)
    assert torch.equal(weights(ours), weights(other))


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"), [(1.0, None, 2), (2.5, None, 5), (0.1, None, 1), (3.0, 4, 4)]
)
def test_the_course_counts_steps_with_the_last_smaller_batch(
    epochs: float, max_steps: int | None, expected: int
) -> None:
    config: Any = SimpleNamespace(train=TrainConfig(batch_size=4, num_train_epochs=epochs, max_steps=max_steps))
    course = Course.of(config, 7)
    assert (course.total_steps, course.steps_per_epoch) == (expected, 2)
    assert course.epoch_at(2) == 1.0


class HalfAccelerator(Accelerator):
    """float16's loss scaling on the CPU, around float32 arithmetic."""

    mixed_precision = "fp16"


def half_learner(scale: float = 2.0**16) -> Learner:
    accelerator = HalfAccelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    plain = learner()
    task: Any = TaggerTask()
    model, optimizer, store = plain.plain_model, plain.plain_optimizer, plain.store
    ours = Learner(model, task, store, optimizer=optimizer, accelerator=accelerator, config=plain.config)
    accelerator.native_amp = True
    return ours


def test_loss_scaling_leaves_out_the_step_that_overflows_and_lowers_its_scale() -> None:
    ours = half_learner()
    before = weights(ours)
    hook = ours.plain_model.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    assert [ours.update(step).finite for step in range(2)] == [False, False]
    assert torch.equal(weights(ours), before)
    assert ours.accelerator.scaler.get_scale() == 2.0**14
    hook.remove()
    assert ours.update(2).finite
    assert not torch.equal(weights(ours), before)


def test_loss_scaling_goes_on_after_a_loss_that_is_not_finite() -> None:
    """fault 29"""
    ours = half_learner()
    before, right = weights(ours), ours.task.loss
    ours.task.loss = lambda output, batch: output.sum() * float("nan")
    assert [ours.update(step).finite for step in range(2)] == [False, False]
    assert torch.equal(weights(ours), before)
    ours.task.loss = right
    assert ours.update(2).finite


def test_loss_scaling_gives_the_gradient_without_it() -> None:
    plain, scaled = learner(), half_learner(scale=4.0)
    for step in range(3):
        one, other = plain.update(step), scaled.update(step)
        assert (other.loss, other.grad_norm) == pytest.approx((one.loss, one.grad_norm), rel=0.01)
    torch.testing.assert_close(weights(scaled), weights(plain), rtol=0.01, atol=0.01)


def test_out_of_memory_inside_the_update_is_not_tried_again() -> None:
    """fault 30: half of the weights may have moved already, and a smaller micro-batch would not help."""
    ours = learner()
    calls = []

    def half_done() -> None:
        calls.append(1)
        raise torch.OutOfMemoryError("full")

    ours.optimizer.step = half_done
    with pytest.raises(MemoryError_, match=r"step 1 .* optimizer"):
        ours.update(0)
    assert calls == [1]
    assert ours.max_rows == 4


def test_an_inexact_fraction_of_epochs_adds_no_step() -> None:
    """1.1 * 100 is 110.00000000000001 in binary floating point."""
    config: Any = SimpleNamespace(train=TrainConfig(batch_size=1, num_train_epochs=1.1))
    assert Course.of(config, 100).total_steps == 110

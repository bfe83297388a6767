"""What the plan counts of a vocabulary's logits: those that the loss holds at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chainft.config.compose import compose
from chainft.models.load import load_model
from chainft.plan import measure
from chainft.plan.followed import new_chain
from chainft.plan.measure import Step, measure_step
from chainft.plan.probe import make_batch, new_task
from chainft.stages.deferred_head import find_deferred_head

ROWS, LENGTH = 6, 50


def step(tiny_decoder: Path, *, defers: bool) -> tuple[Step, int]:
    """The planned step, and the size of the vocabulary."""
    config = compose(["task=generate", f"model={tiny_decoder}", "task.max_new_tokens=8"]).config
    task = new_task(config, 0)
    chain = new_chain(config, task, (ROWS, LENGTH))
    found = measure_step(
        chain,
        task,
        lambda rows, length: make_batch(task, rows, length),
        blocks=None,
        size=(ROWS, LENGTH),
        mixed=False,
        defers=defers,
    )
    return found, chain.model.config.vocab_size


def test_all_logits_are_counted_once_they_fit_in_a_chunk_and_a_part_of_them_otherwise(
    tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, words = step(tiny_decoder, defers=True)
    logits = ROWS * LENGTH * words
    monkeypatch.setattr(measure, "CHUNK_LOGITS", logits // 4)
    quarter, _ = step(tiny_decoder, defers=True)
    saved = whole.alive.max() - quarter.alive.max()
    # At the peak the logits and what becomes of them are alive: twice their float32 bytes or more; the last token has no target.
    assert 0.75 * 1.9 * 4 * logits <= (whole.alive - quarter.alive).max() <= 0.75 * 5 * 4 * logits
    assert 0 < saved <= (whole.alive - quarter.alive).max()


def test_a_model_that_computes_its_logits_keeps_them_in_the_plan(tiny_decoder: Path) -> None:
    """Of a pipeline or shards, whose loss gets them whole."""
    deferred, words = step(tiny_decoder, defers=True)
    plain, _ = step(tiny_decoder, defers=False)
    kept = plain.alive[plain.num_forward - 1] - deferred.alive[deferred.num_forward - 1]
    assert kept >= 4 * ROWS * LENGTH * words


def test_the_skeleton_defers_what_the_real_model_defers(tiny_decoder: Path) -> None:
    config = compose(["task=generate", f"model={tiny_decoder}", "task.max_new_tokens=8"]).config
    task = new_task(config, 0)
    batch = make_batch(task, 2, 20)
    real = load_model(config.model, task, seed=0).model
    skeleton = new_chain(config, task, (2, 20)).model
    with measure.Ghostly():  # type: ignore[no-untyped-call]
        planned = find_deferred_head(skeleton, task, batch)
    found = find_deferred_head(real, task, batch)
    assert planned is not None and found is not None
    assert planned.layer.weight.shape == found.layer.weight.shape == torch.Size([real.config.vocab_size, 32])

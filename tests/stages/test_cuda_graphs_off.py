"""Where passes cannot be recorded, or not any more, blocks run as they are, and the user is told once."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chainft.infer.forward import Forward
from chainft.stages import cuda_graphs, flash_rows
from chainft.tasks.ner import Ner, NerConfig
from tests.stages.tape import (
    LENGTHS,
    LONGEST,
    Tape,
    assert_as_plain,
    assert_same,
    made,
    passes,
    plainly,
    taken,
    use_kernel,
)


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernel(monkeypatch)


def test_a_batch_that_is_not_finite_shows_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is recorded with the next one."""
    packing, graphs, _ = made("bert:tokens")
    model = packing.gates.model
    weight = model.bert.embeddings.word_embeddings.weight
    kept = weight.detach().clone()
    for number in range(5):
        with torch.no_grad():
            weight.fill_(float("nan") if number == 1 else float("inf")) if number in (1, 2) else weight.copy_(kept)
        passes(packing, LENGTHS[0])
        assert graphs.num_recorded == (0 if number < 3 else 1)
        model.zero_grad()
    assert_as_plain(packing, LENGTHS[0])
    assert not caplog.records


def test_batches_that_are_never_finite_are_not_tried_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    packing, graphs, tape = made("bert:tokens")
    with torch.no_grad():
        packing.gates.model.bert.embeddings.word_embeddings.weight.fill_(float("nan"))
    for number in range(6):
        passes(packing, LENGTHS[0])
        assert graphs.is_off == (number >= 3)
    assert not tape.played and "finite" in caplog.text and len(caplog.records) == 1


def test_a_trial_that_fails_leaves_the_gradients_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    packing, graphs, _ = made("bert:tokens")
    model = packing.gates.model
    for _ in range(2):
        passes(packing, LENGTHS[0])
    model.zero_grad()
    read = np.zeros((5, 11), bool)
    read[:, 0] = True
    compared: list[int] = []

    def full(*_: Any) -> bool:
        compared.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cuda_graphs, "_close", full)
    several: list[Any] = [None, read, read]
    for rows in several:
        passes(packing, LENGTHS[0], rows)
    gradients = taken(model)
    assert compared and graphs.is_off
    for rows in several:
        plainly(packing, LENGTHS[0], rows)
    assert_same(gradients, taken(model))


def test_work_that_waits_for_the_gpu_is_found_before_it_would_be_recorded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    packing, graphs, tape = made("bert:tokens")
    attend = flash_rows.attend

    def waits(*arguments: Any, **options: Any) -> Tensor:
        if tape.is_alert:
            raise RuntimeError("called a synchronizing CUDA operation")
        return attend(*arguments, **options)

    monkeypatch.setattr(flash_rows, "attend", waits)
    monkeypatch.setattr(tape, "record", lambda _: pytest.fail("a recording that would break off"))
    for lengths in [LENGTHS[0], LENGTHS[0], np.array([20] * 10), np.array([20] * 10)]:
        assert_as_plain(packing, lengths)
    assert graphs.is_off and "synchronizing" in caplog.text and len(caplog.records) == 1


def test_memory_that_is_full_costs_the_recordings(caplog: pytest.LogCaptureFixture) -> None:
    packing, graphs, _ = made("bert:tokens")
    model = packing.gates.model
    forward = Forward(model, Ner(NerConfig()), packing)
    assert not forward.make_room() and not graphs.is_off
    for _ in range(2):
        passes(packing, LENGTHS[0])
    model.zero_grad()
    assert forward.make_room() and graphs.is_off and not graphs.num_recorded and "memory is full" in caplog.text
    assert_as_plain(packing, LENGTHS[0])
    assert not forward.make_room()


class Sometimes(nn.Module):
    """A weight that few tokens use."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.weight if hidden.shape[1] <= 128 else hidden


def test_a_weight_that_only_some_sizes_use_cannot_be_recorded(caplog: pytest.LogCaptureFixture) -> None:
    packing, _, tape = made("bert:tokens")
    model = packing.gates.model
    model.bert.encoder.layer[0].output.dropout = Sometimes()
    packing.graphs = tape.graphs = graphs = cuda_graphs.Graphs(model, tape, longest=LONGEST)
    for lengths in [LENGTHS[0], LENGTHS[0], np.array([20] * 10), np.array([20] * 10), LENGTHS[0]]:
        assert_as_plain(packing, lengths)
    assert tape.played and graphs.is_off and len(caplog.records) == 1


class Broken(Tape):
    """Fails at its third recording."""

    count = 0

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.count += 1
        if self.count == 3:
            raise RuntimeError("operation not permitted\nmore of it")
        return super().record(work)


class Stale(Tape):
    """Always gives what it gave while it was recorded, as with weights rounded before."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        super().record(work)
        return lambda: None


class Forgetful(Tape):
    """Leaves out the gradient of one small parameter."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        again = super().record(work)
        assert self.graphs is not None
        places = {tuple(weight.shape): place for weight, place in self.graphs._gradients.items()}

        def without() -> None:
            again()
            places[(32,)].zero_()

        return without


@pytest.mark.parametrize(
    ("kind", "because"), [(Broken, "not permitted"), (Stale, "other numbers"), (Forgetful, "other numbers")]
)
def test_where_it_cannot_be_recorded_blocks_run_as_they_are(
    kind: type[Tape], because: str, caplog: pytest.LogCaptureFixture
) -> None:
    packing, graphs, tape = made("bert:tokens", kind())
    with caplog.at_level(logging.WARNING):
        for lengths in [LENGTHS[0], LENGTHS[0], np.array([20] * 10), np.array([20] * 10), LENGTHS[0]]:
            assert_as_plain(packing, lengths)
    assert graphs.is_off and not graphs.num_recorded and tape.recovered == 1 and not graphs._gradients
    assert len(caplog.records) == 1 and because in caplog.text and "more of it" not in caplog.text


def test_the_memory_of_recordings_that_are_forgotten_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it became full while one was made: nothing may wait for the collector of garbage."""
    packing, graphs, tape = made("bert:tokens")
    packing.gates.model.train()
    filled: list[weakref.ref[Tensor]] = []

    def full(work: Callable[[], None]) -> Callable[[], None]:
        large = torch.zeros(1000)
        filled.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory" + str(large.sum()))

    monkeypatch.setattr(tape, "record", full)
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            passes(packing, LENGTHS[0])
        assert graphs.is_off and filled[0]() is None
    finally:
        gc.enable()

"""Passes of blocks that are played give what those give that run as they are. A recorder on the CPU stands for the GPU's,
which is tried in `tests/train/test_gpu.py`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from chainft.stages import flash_rows
from chainft.stages.cuda_graphs import Graphs, slots_for
from chainft.stages.packing import Packing, packing_of
from tests.stages.architectures import tiny_model
from tests.stages.test_packing import batch, loss

LONGEST = 20
LENGTHS = (np.array([7, 3, 11, 3, 5]), np.array([2, 9, 9]), np.array([20, 1]))


class Tape:
    """Does work again as a CUDA graph would: on the same memory, and not yet while it is recorded."""

    def __init__(self) -> None:
        self.graphs: Graphs | None = None
        self.played = 0
        self.recovered = 0

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        assert self.graphs is not None
        places = list(self.graphs._gradients.values())
        kept = [one.clone() for one in places]
        work()
        for place, one in zip(places, kept, strict=True):
            place.copy_(one)

        def again() -> None:
            self.played += 1
            work()

        return again

    def recover(self) -> None:
        self.recovered += 1


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention on the CPU that is called as the GPU's kernel is."""

    def attend(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, **options: Any) -> Tensor:
        times = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(times, dim=1) for one in (key, value))
        query_ends = options.get("query_ends")
        found = []
        for asked, there in zip(
            pairwise((ends if query_ends is None else query_ends).tolist()), pairwise(ends.tolist()), strict=True
        ):
            assert there[1] - there[0] <= longest
            if asked[0] == asked[1]:
                continue
            rows = (query[:, :, slice(*asked)], key[:, :, slice(*there)], value[:, :, slice(*there)])
            found.append(
                functional.scaled_dot_product_attention(
                    *rows, is_causal=options["causal"], dropout_p=options["dropout_p"], scale=options["scale"]
                )
            )
        return torch.cat(found, dim=2).transpose(1, 2)

    monkeypatch.setattr(flash_rows, "attend", attend)
    monkeypatch.setattr(flash_rows, "suits", lambda _: True)


def made(name: str, tape: Any = None) -> tuple[Packing, Graphs, Any]:
    """A model without dropout, its packing with recordings, and the tape."""
    model = tiny_model(name)
    packing = packing_of(model)
    assert packing is not None
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.train()
    packing.has_kernel = True
    tape = tape or Tape()
    packing.graphs = tape.graphs = Graphs(model, tape, longest=LONGEST)
    return packing, packing.graphs, tape


def passes(packing: Packing, lengths: np.ndarray, read: np.ndarray | None = None) -> float:
    """A loss, whose gradients are added to those that there are."""
    inputs = batch(packing.gates.model, lengths)
    found = loss(packing.run(inputs, lengths, read=read), inputs["attention_mask"])
    found.backward()  # type: ignore[no-untyped-call]
    return float(found.detach())


def plainly(packing: Packing, lengths: np.ndarray, read: np.ndarray | None = None) -> float:
    graphs, packing.graphs = packing.graphs, None
    try:
        return passes(packing, lengths, read)
    finally:
        packing.graphs = graphs


def taken(model: PreTrainedModel) -> dict[str, Tensor]:
    """The gradients, which are then gone."""
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, one in found.items():
        torch.testing.assert_close(one, expected[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["bert:tokens", "roberta:classify", "llama:causal", "gpt2:causal", "albert:classify"])
def test_what_is_played_is_what_runs(name: str) -> None:
    packing, graphs, tape = made(name)
    model = packing.gates.model
    for number, lengths in enumerate([*LENGTHS, *LENGTHS, *LENGTHS]):
        found, gradients = passes(packing, lengths), taken(model)
        assert found == pytest.approx(plainly(packing, lengths), rel=1e-5)
        assert_same(gradients, taken(model))
        if number < 1:
            assert not tape.played
    assert graphs.num_recorded >= 1 and tape.played >= 2 * 5 and not graphs.is_off


def test_gradients_of_several_batches_add_up() -> None:
    """Of sizes that are played, that are recorded between, and that run as they are."""
    packing, graphs, _ = made("bert:tokens")
    model = packing.gates.model
    long = np.array([20] * 10)
    for lengths in (LENGTHS[0], LENGTHS[0], long):
        passes(packing, lengths)
    model.zero_grad()
    several = [LENGTHS[0], LENGTHS[1], long, LENGTHS[2], np.array([20] * 20), long]
    for lengths in several:
        passes(packing, lengths)
    gradients = taken(model)
    for lengths in several:
        plainly(packing, lengths)
    assert_same(gradients, taken(model))
    assert graphs.num_recorded == 2


def test_a_gradient_that_was_there_is_added_to() -> None:
    packing, _, _ = made("bert:tokens")
    model = packing.gates.model
    for _ in range(2):
        passes(packing, LENGTHS[0])
    model.zero_grad()
    plainly(packing, LENGTHS[1])
    passes(packing, LENGTHS[0])
    gradients = taken(model)
    plainly(packing, LENGTHS[1])
    plainly(packing, LENGTHS[0])
    assert_same(gradients, taken(model))


def test_few_read_tokens_leave_the_last_block_as_it_is() -> None:
    packing, graphs, tape = made("bert:tokens")
    model = packing.gates.model
    read = np.zeros((5, 11), bool)
    read[:, 0] = True
    for _ in range(3):
        found, gradients = passes(packing, LENGTHS[0], read), taken(model)
        assert found == pytest.approx(plainly(packing, LENGTHS[0], read), rel=1e-5)
        assert_same(gradients, taken(model))
    assert graphs.num_recorded == 1 and tape.played


def test_what_is_frozen_or_trained_later_is_another_recording() -> None:
    packing, graphs, _ = made("bert:tokens")
    model = packing.gates.model
    block = packing.gates.blocks.module(0)
    for trained in (False, True, False):
        block.requires_grad_(trained)
        for _ in range(3):
            passes(packing, LENGTHS[0])
            gradients = taken(model)
            plainly(packing, LENGTHS[0])
            assert_same(gradients, taken(model))
    assert graphs.num_recorded == 2


def test_received_states_without_a_gradient() -> None:
    packing, graphs, _ = made("bert:tokens")
    model = packing.gates.model
    model.bert.embeddings.requires_grad_(False)
    for _ in range(3):
        passes(packing, LENGTHS[0])
        gradients = taken(model)
        plainly(packing, LENGTHS[0])
        assert_same(gradients, taken(model))
    assert graphs.num_recorded == 1


def test_frozen_blocks_above_embeddings_that_are_trained() -> None:
    packing, graphs, _ = made("bert:tokens")
    model = packing.gates.model
    model.bert.encoder.requires_grad_(False)
    for _ in range(3):
        passes(packing, LENGTHS[0])
        gradients = taken(model)
        plainly(packing, LENGTHS[0])
        assert_same(gradients, taken(model))
    assert graphs.num_recorded == 1


def test_blocks_that_train_nothing_run_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    packing, graphs, _ = made("bert:tokens")
    packing.gates.model.bert.requires_grad_(False)
    for _ in range(3):
        passes(packing, LENGTHS[0])
    assert not graphs.num_recorded and not graphs.is_off and not caplog.records


def test_only_training_is_played() -> None:
    packing, graphs, tape = made("bert:tokens")
    inputs = batch(packing.gates.model)
    with torch.no_grad():
        for _ in range(3):
            packing.run(inputs, LENGTHS[0])
    packing.gates.model.eval()
    for _ in range(3):
        packing.run(inputs, LENGTHS[0])
    assert not graphs.num_recorded and not tape.played


def test_not_a_number_does_not_stay() -> None:
    packing, _, _ = made("bert:tokens")
    model = packing.gates.model
    for _ in range(2):
        passes(packing, LENGTHS[0])
    model.zero_grad()
    weight = model.bert.embeddings.word_embeddings.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    passes(packing, LENGTHS[0])
    model.zero_grad()
    with torch.no_grad():
        weight.copy_(kept)
    passes(packing, np.array([7, 3, 5]))
    gradients = taken(model)
    plainly(packing, np.array([7, 3, 5]))
    assert_same(gradients, taken(model))


def test_weights_that_change_are_read_anew() -> None:
    packing, _, _ = made("bert:tokens")
    model = packing.gates.model
    for _ in range(4):
        passes(packing, LENGTHS[0])
        gradients = taken(model)
        plainly(packing, LENGTHS[0])
        expected = taken(model)
        assert_same(gradients, expected)
        with torch.no_grad():
            for name, one in model.named_parameters():
                one -= 0.1 * expected[name]


def test_two_forward_passes_before_a_backward_pass_are_refused() -> None:
    packing, _, _ = made("bert:tokens")
    for _ in range(2):
        passes(packing, LENGTHS[0])
    inputs = batch(packing.gates.model)
    first, second = (loss(packing.run(inputs, LENGTHS[0]), inputs["attention_mask"]) for _ in range(2))
    second.backward()  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="ran again"):
        first.backward()  # type: ignore[no-untyped-call]


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


@pytest.mark.parametrize(("kind", "because"), [(Broken, "not permitted"), (Stale, "other numbers")])
def test_where_it_cannot_be_recorded_blocks_run_as_they_are(
    kind: type[Tape], because: str, caplog: pytest.LogCaptureFixture
) -> None:
    packing, graphs, tape = made("bert:tokens", kind())
    model = packing.gates.model
    with caplog.at_level(logging.WARNING):
        for lengths in [LENGTHS[0], LENGTHS[0], np.array([20] * 10), np.array([20] * 10), LENGTHS[0]]:
            passes(packing, lengths)
            gradients = taken(model)
            plainly(packing, lengths)
            assert_same(gradients, taken(model))
    assert graphs.is_off and not graphs.num_recorded and tape.recovered == 1
    assert len(caplog.records) == 1 and because in caplog.text and "more of it" not in caplog.text


def test_a_recording_draws_no_random_numbers() -> None:
    packing, graphs, _ = made("bert:tokens")
    for module in packing.gates.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    plainly(packing, LENGTHS[0])  # Finds out what it needs to know.
    found = []
    for _ in range(3):
        torch.manual_seed(0)
        found.append(passes(packing, LENGTHS[0]))
    assert graphs.num_recorded == 1
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-6)


@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=80))
def test_rows_of_filler_are_rows(lengths: list[int]) -> None:
    graphs = Graphs(nn.Linear(1, 1), Tape(), longest=LONGEST)
    tokens = sum(lengths)
    slots = slots_for(tokens)
    ends = graphs._ends(np.array(lengths), slots)
    assert ends[: len(lengths) + 1].tolist() == [0, *np.cumsum(lengths).tolist()]
    assert ends[-1] == slots >= tokens and len(ends) % 16 == 0
    sizes = np.diff(ends)
    assert sizes.min() >= 0 and sizes.max() <= LONGEST


def test_sizes_are_few() -> None:
    assert len({slots_for(tokens) for tokens in range(8192, 16384)}) == 17
    assert all(tokens <= slots_for(tokens) <= tokens + max(127, tokens // 16) for tokens in range(1, 20000))


def test_large_batches_run_as_they_are() -> None:
    packing, graphs, tape = made("bert:tokens")
    graphs.most = 29
    for _ in range(3):
        for lengths in (LENGTHS[0], np.array([20, 10])):
            passes(packing, lengths)
    assert graphs.num_recorded == 1 and all(size.slots == 128 for _, size in graphs._recordings)
    played = tape.played
    passes(packing, np.array([20, 10]))
    assert tape.played == played

"""Passes of blocks that are played give what those give that run as they are. A recorder on the CPU stands for the GPU's,
which is tried in `tests/train/test_gpu.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from chainft.stages import cuda_graphs, gates
from chainft.stages.recording import slots_for
from tests.stages.tape import (
    LENGTHS,
    assert_as_plain,
    assert_same,
    drop,
    made,
    passes,
    plainly,
    taken,
    use_kernel,
)
from tests.stages.test_packing import batch, loss


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    use_kernel(monkeypatch)


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
    block = packing.gates.blocks.module(0)
    for trained in (False, True):
        block.requires_grad_(trained)
        for lengths in [*LENGTHS, *LENGTHS]:
            assert_as_plain(packing, lengths)
    kinds = {kind.weights for kind, _ in graphs._recordings}
    assert len(kinds) == 1 and all(trained for _, trained in kinds.pop()), "what was frozen does not come again"


def test_recordings_of_weights_that_were_frozen_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MOST", 1)
    packing, graphs, tape = made("bert:tokens")
    block = packing.gates.blocks.module(0).requires_grad_(False)
    for _ in range(2):
        passes(packing, LENGTHS[0])
    block.requires_grad_(True)
    for _ in range(2):
        passes(packing, LENGTHS[0])
    before = tape.played
    passes(packing, LENGTHS[0])
    assert graphs.num_recorded == 1 and tape.played == before + 2


@pytest.mark.parametrize("frozen", ["embeddings", "encoder"])
def test_a_part_that_is_frozen(frozen: str) -> None:
    """What comes in has no gradient, or the blocks have none."""
    packing, graphs, _ = made("bert:tokens")
    packing.gates.model.bert.get_submodule(frozen).requires_grad_(False)
    for _ in range(3):
        assert_as_plain(packing, LENGTHS[0])
    assert graphs.num_recorded == 1


def test_blocks_that_train_nothing_run_once_and_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    packing, graphs, _ = made("bert:tokens")
    packing.gates.model.bert.requires_grad_(False)
    drop(packing.gates.model, 0.2)
    calls: list[int] = []
    packing.gates.blocks.module(0).register_forward_hook(lambda *_: calls.append(1))
    plainly(packing, LENGTHS[0])
    calls.clear()
    found = []
    for _ in range(3):
        torch.manual_seed(0)
        found.append(passes(packing, LENGTHS[0]))
    assert len(calls) == 3 and found == found[:1] * 3
    assert not graphs.num_recorded and not graphs.is_off and graphs.is_idle and not caplog.records


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
    assert_as_plain(packing, np.array([7, 3, 5]))


def test_what_is_recorded_lies_in_memory_as_what_ran_before() -> None:
    """Compiled blocks would be compiled anew for other strides, in the midst of a recording."""
    packing, _, _ = made("bert:tokens")
    plainly(packing, LENGTHS[0])  # Finds out what it needs to know.
    strides: list[tuple[int, ...]] = []
    packing.gates.blocks.module(0).register_forward_pre_hook(
        lambda _, arguments: strides.append(arguments[0].stride())
    )
    for lengths in (LENGTHS[0], LENGTHS[0], np.array([20] * 10), np.array([20] * 10)):
        strides.clear()
        passes(packing, lengths)
        slots = slots_for(int(lengths.sum()))
        assert {one[0] for one in strides} == {slots * 32}


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
    third = loss(packing.run(inputs, LENGTHS[0]), inputs["attention_mask"])
    assert packing.graphs is not None
    packing.graphs.stop("the memory is full")
    with pytest.raises(RuntimeError, match="ran again"):
        third.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", ["bert:tokens", "gpt2:causal", "phi:causal", "gpt_neox:causal", "biogpt"])
def test_a_recording_draws_no_random_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is recorded, the generator of a GPU cannot be set back."""
    packing, graphs, tape = made(name)
    drop(packing.gates.model, 0.2)
    recording: list[bool] = []
    record = tape.record

    def noted(work: Callable[[], None]) -> Callable[[], None]:
        def marked() -> None:
            recording.append(True)
            try:
                work()
            finally:
                recording.pop()

        again: Callable[[], None] = record(marked)
        return again

    monkeypatch.setattr(tape, "record", noted)
    monkeypatch.setattr(gates, "is_recorded", lambda _: bool(recording))
    plainly(packing, LENGTHS[0])  # Finds out what it needs to know.
    found = []
    for _ in range(3):
        torch.manual_seed(0)
        found.append(passes(packing, LENGTHS[0]))
    assert graphs.num_recorded == 1
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-6)


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


def test_recordings_share_their_memory() -> None:
    packing, graphs, _ = made("bert:tokens")
    long = np.array([20] * 10)
    for lengths in (long, long, LENGTHS[0], LENGTHS[0]):
        passes(packing, lengths)
    one, other = graphs._recordings.values()
    for name in ("out", "upstream", "downstream"):
        assert getattr(one, name).data_ptr() == getattr(other, name).data_ptr()
    assert one.slots.hidden.data_ptr() == other.slots.hidden.data_ptr()

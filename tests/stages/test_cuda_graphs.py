"""Passes of blocks that are played give what those give that run as they are. A recorder on the CPU stands for the GPU's,
which is tried in `tests/train/test_gpu.py`."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from transformers import BioGptConfig, BioGptForCausalLM, PreTrainedModel

from chainft.stages import cuda_graphs, flash_rows, gates
from chainft.stages.cuda_graphs import Graphs
from chainft.stages.packing import Packing, packing_of
from chainft.stages.recording import CudaRecorder, ends_of, slots_for
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

    def renew(self) -> None:
        assert self.graphs is not None and not self.graphs.num_recorded, "memory of recordings that may be played"

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
    model = biogpt() if name == "biogpt" else tiny_model(name)
    packing = packing_of(model)
    assert packing is not None
    drop(model, 0.0)
    model.train()
    packing.has_kernel = True
    tape = tape or Tape()
    packing.graphs = tape.graphs = Graphs(model, tape, longest=LONGEST)
    return packing, packing.graphs, tape


def biogpt() -> PreTrainedModel:
    """A model that calls dropout as a function before its blocks."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BioGptConfig(**sizes, intermediate_size=48, activation_dropout=0.0, hidden_dropout_prob=0.2)
    return BioGptForCausalLM(config).eval()


def drop(model: nn.Module, rate: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate


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
    for trained in (False, True):
        block.requires_grad_(trained)
        for lengths in [*LENGTHS, *LENGTHS]:
            passes(packing, lengths)
            gradients = taken(model)
            plainly(packing, lengths)
            assert_same(gradients, taken(model))
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
    passes(packing, LENGTHS[0])
    gradients = taken(model)
    plainly(packing, LENGTHS[0])
    assert_same(gradients, taken(model))
    assert not caplog.records


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
    model = packing.gates.model
    with caplog.at_level(logging.WARNING):
        for lengths in [LENGTHS[0], LENGTHS[0], np.array([20] * 10), np.array([20] * 10), LENGTHS[0]]:
            passes(packing, lengths)
            gradients = taken(model)
            plainly(packing, lengths)
            assert_same(gradients, taken(model))
    assert graphs.is_off and not graphs.num_recorded and tape.recovered == 1 and not graphs._gradients
    assert len(caplog.records) == 1 and because in caplog.text and "more of it" not in caplog.text


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


@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=80))
def test_rows_of_filler_are_rows(lengths: list[int]) -> None:
    tokens = sum(lengths)
    slots = slots_for(tokens)
    ends = ends_of(np.array(lengths), slots, LONGEST)
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


def test_recordings_share_their_memory() -> None:
    packing, graphs, _ = made("bert:tokens")
    long = np.array([20] * 10)
    for lengths in (long, long, LENGTHS[0], LENGTHS[0]):
        passes(packing, lengths)
    one, other = graphs._recordings.values()
    for name in ("out", "upstream", "downstream"):
        assert getattr(one, name).data_ptr() == getattr(other, name).data_ptr()
    assert one.slots.hidden.data_ptr() == other.slots.hidden.data_ptr()


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


def test_the_recorder_of_a_gpu_does_in_order_what_torch_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a torch that only tells; on a GPU see `tests/train/test_gpu.py`."""
    told: list[Any] = []

    @contextmanager
    def context(name: str, *arguments: Any, **options: Any) -> Iterator[None]:
        told.append((name, *arguments, *options.items()))
        yield
        told.append(f"end {name}")

    class Graph:
        def replay(self) -> None:
            told.append("play")

    handles = iter("ab")
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "now")
    monkeypatch.setattr(torch.cuda, "stream", lambda *arguments: context("stream", *arguments))
    monkeypatch.setattr(torch.cuda, "graph", lambda _, **options: context("graph", **options))
    monkeypatch.setattr(torch, "clear_autocast_cache", lambda: told.append("clear"))
    recorder = CudaRecorder()
    play = recorder.record(lambda: told.append("work"))
    stream, mode = ("stream", "now"), ("capture_error_mode", "thread_local")
    inside = [stream, ("graph", ("pool", "a"), mode), "work", "end graph", "end stream"]
    assert told == ["clear", *inside, "clear"]
    play()
    recorder.renew()
    recorder.record(lambda: None)
    assert told[len(inside) + 2 :][0] == "play" and ("graph", ("pool", "b"), mode) in told

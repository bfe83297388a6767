"""The disk format of the prefix cache: what goes in comes out, whoever is killed, damaged or at work at the same time."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from chainft.data import prefix_layout
from chainft.data.prefix_layout import Layout
from chainft.data.prefix_store import PrefixEntry, Shape, StorageType, present
from chainft.errors import StorageError

WIDTH = 4
LENGTHS = np.array([3, 9, 4, 6, 2, 8, 5, 7, 1, 9, 2, 3])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few rows, segments of a few chunks."""
    monkeypatch.setattr(prefix_layout, "CHUNK_TOKENS", 10)
    monkeypatch.setattr(prefix_layout, "SEGMENT_BYTES", 200)


def entry(folder: Path, stored: StorageType = "float32", lengths: np.ndarray = LENGTHS) -> PrefixEntry:
    shape = Shape(WIDTH, stored, "float32")
    return PrefixEntry(folder / "key", Layout(lengths, shape.token_bytes), shape, {"model": "Tiny"})


def states(row: int, length: int) -> Tensor:
    """(length, WIDTH) values that tell row and token."""
    return torch.arange(length * WIDTH, dtype=torch.float32).reshape(length, WIDTH) / 8 + 32 * row


class Computed:
    """Computes states and remembers for which rows; calls `before` at each chunk."""

    def __init__(self, lengths: np.ndarray = LENGTHS, before: Callable[[int], None] = lambda number: None) -> None:
        self.lengths = lengths
        self.before = before
        self.rows: list[int] = []
        self.chunks = 0

    def __call__(self, rows: np.ndarray) -> Tensor:
        self.before(self.chunks)
        self.chunks += 1
        self.rows += rows.tolist()
        return torch.cat([states(int(row), int(self.lengths[row])) for row in rows])


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
def test_every_row_has_a_place_of_its_own(lengths: list[int]) -> None:
    layout = Layout(np.array(lengths), WIDTH * 4)
    chunks = [chunk for segment in layout.segments for chunk in segment]
    assert sorted(np.concatenate(chunks).tolist()) == list(range(len(lengths)))
    assert all(len(chunk) == 1 or len(chunk) * max(lengths[row] for row in chunk) <= 10 for chunk in chunks)
    places = {
        (int(layout.segment_of[row]), int(layout.start_of[row]) + token)
        for row, length in enumerate(lengths)
        for token in range(length)
    }
    assert len(places) == sum(lengths) == sum(layout.tokens)


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_what_goes_in_comes_out_padded_with_zeros(stored: StorageType, tmp_path: Path) -> None:
    store = entry(tmp_path, stored).open(Computed(), tell=quiet)
    found = store.padded([4, 1, 0])
    assert found.shape == (3, 9, WIDTH) and found.dtype == torch.float32
    for place, row in enumerate((4, 1, 0)):
        expected = states(row, LENGTHS[row]).to(getattr(torch, stored)).float()
        assert torch.equal(found[place, : LENGTHS[row]], expected)
        assert not found[place, LENGTHS[row] :].any()


def test_a_second_opening_computes_nothing(tmp_path: Path) -> None:
    entry(tmp_path).open(Computed(), tell=quiet)
    again = Computed()
    assert entry(tmp_path).missing_bytes == 0
    entry(tmp_path).open(again, tell=quiet)
    assert again.rows == []


def _killed_at(number: int) -> Callable[[int], None]:
    return lambda chunk: os.kill(os.getpid(), signal.SIGKILL) if chunk == number else None


def test_a_killed_build_goes_on_from_its_whole_segments(tmp_path: Path) -> None:
    """fault 24"""
    context = multiprocessing.get_context("fork")
    build = Computed(before=_killed_at(4))
    process = context.Process(target=lambda: entry(tmp_path).open(build, tell=quiet))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    there = present(tmp_path / "key")
    assert 0 < len(there) < len(entry(tmp_path).layout.segments)
    rest = Computed()
    store = entry(tmp_path).open(rest, tell=quiet)
    kept = {int(row) for number in there for chunk in store.layout.segments[number] for row in chunk}
    assert sorted({*rest.rows, *kept}) == list(range(len(LENGTHS))) and not kept & set(rest.rows)
    assert torch.equal(store.padded([5]), states(5, 8)[None])
    assert torch.equal(store.end_to_end([5, 1]), torch.cat([store.padded([row])[0] for row in (5, 1)]))
    assert list((tmp_path / "key").glob(".*")) == []


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "swap", "meta"])
def test_a_damaged_segment_is_named_and_computed_again(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = entry(tmp_path).open(Computed(), tell=quiet)
    expected = store.padded(range(len(LENGTHS)))
    segments = [files[0] for _, files in sorted(present(tmp_path / "key").items())]
    content = bytearray(segments[1].read_bytes())
    if damage == "flip":
        content[5] ^= 1
        segments[1].write_bytes(content)
    elif damage == "truncate":
        segments[1].write_bytes(content[:-1])
    elif damage == "swap":
        segments[1].write_bytes(segments[0].read_bytes())
    else:
        (segments[1] if damage == "remove" else tmp_path / "key" / "meta.json").unlink()
    again = Computed()
    with caplog.at_level(logging.WARNING):
        store = entry(tmp_path).open(again, tell=quiet)
    assert torch.equal(store.padded(range(len(LENGTHS))), expected)
    rows = sorted(int(row) for chunk in store.layout.segments[1] for row in chunk)
    assert sorted(again.rows) == ([] if damage == "meta" else rows)
    assert (segments[1].name in caplog.text) == (damage in ("flip", "truncate", "swap"))
    assert (tmp_path / "key" / "meta.json").is_file()


def _open(folder: Path, results: Any) -> None:
    build = Computed(before=lambda number: os.sched_yield())
    store = entry(folder).open(build, tell=quiet)
    results.put((store.padded(range(len(LENGTHS))).tolist(), build.rows))


def test_of_builders_at_the_same_time_one_computes_and_all_get_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=_open, args=(tmp_path, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert all(values == found[0][0] for values, _ in found)
    assert sorted(row for _, rows in found for row in rows) == list(range(len(LENGTHS)))


def test_progress_counts_tokens_and_may_stop_the_work(tmp_path: Path) -> None:
    """fault 26"""
    told: list[tuple[int, int]] = []
    entry(tmp_path).open(Computed(), tell=lambda done, total: told.append((done, total)))
    assert told == sorted(told) and told[-1] == (59, 59)

    class Stop(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        entry(tmp_path / "other").open(Computed(), tell=stop)
    assert list((tmp_path / "other" / "key").glob(".*")) == []


def test_a_full_disk_is_told_with_what_is_missing(tmp_path: Path) -> None:
    """fault 27"""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(StorageError, match="cannot write outputs of frozen stages") as caught:
            entry(tmp_path).open(Computed(), tell=quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "944 bytes are to be written" in caught.value.render()


def test_values_beyond_the_type_are_refused(tmp_path: Path) -> None:
    lengths = np.array([3])
    with pytest.raises(StorageError, match="1e\\+05 do not fit into float16") as caught:
        entry(tmp_path, "float16", lengths).open(lambda rows: torch.full((3, WIDTH), 1e5), tell=quiet)
    assert caught.value.problems[0].key == "cache.dtype"

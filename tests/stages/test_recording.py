"""Sizes of what is recorded, and the recorder of a GPU, which is itself tried in `tests/train/test_gpu.py`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chainft.stages.recording import CudaRecorder, ends_of, slots_for

LONGEST = 20


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


def test_the_recorder_of_a_gpu_does_in_order_what_torch_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a torch that only tells."""
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


def test_who_waits_for_a_gpu_is_found_only_within(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[Any] = [1]

    def set_mode(mode: int | str) -> None:
        warnings.warn("a prototype", UserWarning, stacklevel=1)
        modes.append(mode)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    with pytest.raises(RuntimeError, match="waits"), CudaRecorder().alert():
        assert modes == [1, "error"]
        raise RuntimeError("waits")
    assert modes == [1, "error", 1]

"""Windows over long sequences."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.text.windows import cut_windows

LENGTHS = st.lists(st.integers(0, 9), max_size=40)


@given(LENGTHS, st.integers(1, 12), st.data())
def test_every_word_is_owned_exactly_once_inside_its_window(
    lengths: list[int], capacity: int, data: st.DataObject
) -> None:
    """fault 13: nothing is lost and nothing counts twice."""
    overlap = data.draw(st.integers(0, capacity - 1))
    windows = cut_windows(lengths, capacity, overlap=overlap)
    owned = [word for window in windows for word in range(window.own_start, window.own_end)]
    assert owned == list(range(len(lengths)))
    assert all(w.start <= w.own_start <= w.own_end <= w.end for w in windows if w.own_start < w.own_end)


@given(LENGTHS, st.integers(1, 12), st.data())
def test_windows_fit_and_overlap_at_most_as_told(lengths: list[int], capacity: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, capacity - 1))
    sizes = [min(length, capacity) for length in lengths]
    windows = cut_windows(lengths, capacity, overlap=overlap)
    for window in windows:
        assert sum(sizes[window.start : window.end]) <= capacity
    for left, right in pairwise(windows):
        assert left.start < right.start <= left.end < right.end
        assert sum(sizes[right.start : left.end]) <= overlap


@given(st.lists(st.integers(1, 4), max_size=40), st.integers(4, 12), st.data())
def test_word_is_owned_where_it_has_most_context(lengths: list[int], capacity: int, data: st.DataObject) -> None:
    windows = cut_windows(lengths, capacity, overlap=data.draw(st.integers(0, capacity // 2)))
    for one in windows:
        for word in range(one.own_start, one.own_end):
            best = max(_context(lengths, w.start, w.end, word) for w in windows if w.start <= word < w.end)
            assert _context(lengths, one.start, one.end, word) == best


def test_short_sequence_is_one_window() -> None:
    assert len(cut_windows([1, 2, 3], 6, overlap=2)) == 1


def test_overlap_that_fills_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap 4"):
        cut_windows([1], 4, overlap=4)


def _context(lengths: list[int], start: int, end: int, word: int) -> float:
    """Tokens on the poorer side of a word; the ends of the sequence lack nothing."""
    left = sum(lengths[start:word]) if start > 0 else float("inf")
    right = sum(lengths[word + 1 : end]) if end < len(lengths) else float("inf")
    return min(left, right)

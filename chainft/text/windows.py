"""Windows over sequences that are longer than the model reads: cut at word borders, each word owned by one of them.

Windows overlap, so that no word stands at an edge in all of them; the window in which a word has most context
*owns* it: there alone it has a target, and from there alone its prediction is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, slots=True)
class Window:
    """Words `[start, end)`, of which it owns `[own_start, own_end)`."""

    start: int
    end: int
    own_start: int
    own_end: int


def cut_windows(lengths: Sequence[int] | np.ndarray, capacity: int, *, overlap: int) -> list[Window]:
    """Cover words of `lengths` tokens by windows of at most `capacity` tokens that share at most `overlap` tokens.

    A word longer than `capacity` counts as `capacity`: the caller cuts it. At least one window, even for no words.

    >>> cut_windows([2, 2, 2, 2], 6, overlap=2)
    [Window(start=0, end=3, own_start=0, own_end=3), Window(start=2, end=4, own_start=3, own_end=4)]
    """
    if not 0 <= overlap < capacity:
        raise ValueError(f"overlap {overlap} is not in [0, {capacity})")
    sizes = np.minimum(np.asarray(lengths, dtype=np.int64), capacity)
    if sizes.sum() <= capacity:
        return [Window(0, len(sizes), 0, len(sizes))]
    before = np.concatenate([[0], np.cumsum(sizes)])
    edges = list(_edges(before, capacity, overlap))
    splits = [0, *(_split(before, left[1], right[0]) for left, right in pairwise(edges))]
    splits.append(len(sizes))
    return [Window(start, end, splits[i], splits[i + 1]) for i, (start, end) in enumerate(edges)]


def _edges(before: np.ndarray, capacity: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Start and end of each window; `before[i]` tokens stand before word i."""
    num_words = len(before) - 1
    start = 0
    while True:
        end = int(np.searchsorted(before, before[start] + capacity, side="right")) - 1
        yield start, end
        if end == num_words:
            return
        # The earliest start that shares no more than `overlap` and has room for the next word.
        least = max(before[end] - overlap, before[end + 1] - capacity)
        start = int(np.searchsorted(before, least, side="left"))


def _split(before: np.ndarray, left_end: int, right_start: int) -> int:
    """The first word that the right one of two windows owns: left of it, the left window shows more of what follows.

    Word i has `before[left_end] - before[i + 1]` tokens after it in the left window, and `before[i] -
    before[right_start]` before it in the right one; its other side is longer in both.
    """
    for word in range(right_start, left_end):
        if before[left_end] - before[word + 1] < before[word] - before[right_start]:
            return word
    return left_end

"""Where the hidden states of a split's features lie on disk, and which features run through the model together.

All of it is a function of the lengths of the features, so that whoever computes a state computes the same, and a
reader needs no index. Letters: R rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

CHUNK_TOKENS = 4096
"""Most tokens, padding included, in one forward pass; a longer row has one of its own."""
SEGMENT_BYTES = 32 << 20
"""A segment ends after the chunk with which it reaches this size: what a killed build loses at most."""


class Layout:
    """Where the states of each row lie: a function of the lengths of the rows and the bytes of a token."""

    def __init__(self, lengths: np.ndarray, token_bytes: int) -> None:
        """`lengths`: (R,) tokens of each row."""
        self.lengths = lengths
        self.segments = list(_segments(_chunks(lengths), lengths, token_bytes))
        """The chunks of each segment; a chunk is an array of rows."""
        self.tokens = [int(sum(lengths[chunk].sum() for chunk in chunks)) for chunks in self.segments]
        """Of each segment."""
        self.segment_of = np.zeros(len(lengths), dtype=np.int64)
        self.start_of = np.zeros(len(lengths), dtype=np.int64)
        """(R,) the segment of a row, and at which of its tokens the row begins."""
        for number, chunks in enumerate(self.segments):
            rows = np.concatenate(chunks)
            self.segment_of[rows] = number
            self.start_of[rows] = np.cumsum(lengths[rows]) - lengths[rows]


def _chunks(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of like length that run through the model together: longest first, so that memory peaks at once."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, CHUNK_TOKENS // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def _segments(chunks: Iterable[np.ndarray], lengths: np.ndarray, token_bytes: int) -> Iterator[list[np.ndarray]]:
    pending: list[np.ndarray] = []
    size = 0
    for chunk in chunks:
        pending.append(chunk)
        size += int(lengths[chunk].sum()) * token_bytes
        if size >= SEGMENT_BYTES:
            yield pending
            pending, size = [], 0
    if pending:
        yield pending

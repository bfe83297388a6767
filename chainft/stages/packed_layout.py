"""Where the tokens of each row of a batch are once the rows stand end to end, and which of them attend together.

Letters: B rows, T tokens of all rows, L tokens of the longest, R tokens whose last hidden states are read, D width, n
rows of a group, l tokens of its longest, r read tokens of the row that has most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from chainft.data.batching import micro_batches
from chainft.models.device import to_device

GROUP_TOKENS = 128
"""Cost of one more group of rows in an attention, in tokens; it only moves time."""


@dataclass(frozen=True)
class Queries:
    """The tokens of a group that attend, where not all do."""

    places: Tensor
    """(n, r) the place of each among the R; 0 where a row has fewer."""
    positions: Tensor
    """(n, r) its position in its row; 0 where a row has fewer."""
    kept: Tensor
    """Places in (n * r) of those that there are."""


@dataclass(frozen=True)
class Group:
    """Rows that attend together."""

    places: Tensor
    """(n, l) the place of each token among the T; 0 where a row has none."""
    mask: Tensor | None
    """(n, 1, 1, l) which tokens there are; None: all."""
    kept: Tensor
    """Places in (n * l) of the tokens that there are."""
    queries: Queries | None = None
    """None where no token of the group is read."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of each row are in a packed batch; rows are packed by length."""

    lengths: np.ndarray
    """(B,) tokens of each row."""
    device: torch.device
    read: np.ndarray | None = None
    """(B, L) the tokens whose last hidden states are read, at least one; None: all."""
    windows: list[int] = field(default_factory=list)
    """Windows of attention that blocks asked for, where rows are shorter than these."""
    made: dict[Any, Any] = field(default_factory=dict)
    """What `row_attention` made of the groups, for all blocks."""

    @cached_property
    def order(self) -> np.ndarray:
        """(B,) rows as they are packed."""
        return np.argsort(self.lengths, kind="stable")

    @cached_property
    def flat(self) -> Tensor:
        """(T,) places of the packed tokens in the padded batch (B * L)."""
        return self._tensor(self._flat)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.lengths.max())

    @cached_property
    def ends(self) -> Tensor:
        """(B + 1,) int32: 0, and the place among the T where each row ends, as they are packed."""
        return self._tensor(np.cumsum([0, *self.lengths[self.order]], dtype=np.int32))

    @cached_property
    def read_ends(self) -> tuple[Tensor, int]:
        """(B + 1,) int32 the same among the R, where not all tokens are read; and the most of a row."""
        ends = np.cumsum(self.lengths[self.order])
        before = np.concatenate([[0], np.cumsum(self._flags)[ends - 1]])
        return self._tensor(before.astype(np.int32)), int(np.diff(before).max())

    @cached_property
    def positions(self) -> Tensor:
        """(1, T) the position of each token in its row."""
        found = np.concatenate([np.arange(self.lengths[row]) for row in self.order])
        return self._tensor(found)[None]

    @cached_property
    def read_places(self) -> Tensor:
        """(R,) places among the T of the tokens that are read."""
        return self._tensor(np.flatnonzero(self._flags))

    @cached_property
    def groups(self) -> Sequence[Group]:
        sizes = self.lengths[self.order]
        starts = np.cumsum([0, *sizes])
        cuts = micro_batches(sizes.tolist(), max_rows=len(sizes), overhead=GROUP_TOKENS)
        return [self._group(starts[rows], sizes[rows]) for rows in map(sorted, cuts)]

    def pack(self, padded: Tensor) -> Tensor:
        """(1, T, ...) of (B, L, ...)."""
        return padded.flatten(0, 1).index_select(0, self.flat)[None]

    def unpack(self, packed: Tensor) -> Tensor:
        """(B, L, D) of (1, T, D) or, where not all tokens are read, of (1, R, D); zeros for all others."""
        rows, longest = len(self.lengths), self.longest
        filled = self.flat if packed.shape[1] == len(self.flat) else self.flat[self.read_places]
        places = self.flat.new_zeros(rows * longest)
        places[filled] = torch.arange(1, len(filled) + 1, device=self.device)
        table = functional.pad(packed[0], (0, 0, 1, 0))  # Row 0 is for the places without a token.
        return functional.embedding(places.view(rows, longest), table)

    @cached_property
    def _flat(self) -> np.ndarray:
        longest = self.longest
        return np.concatenate([row * longest + np.arange(self.lengths[row]) for row in self.order])

    @cached_property
    def _flags(self) -> np.ndarray:
        """(T,) whether each token is read."""
        return np.ones(len(self._flat), bool) if self.read is None else self.read.reshape(-1)[self._flat]

    def _group(self, starts: np.ndarray, sizes: np.ndarray) -> Group:
        inside = np.arange(sizes.max())[None] < sizes[:, None]  # (n, l)
        places = np.where(inside, starts[:, None] + np.arange(sizes.max())[None], 0)
        mask = None if inside.all() else self._tensor(inside[:, None, None])
        queries = None if self.read is None else self._queries(places, self._flags[places] & inside)
        return Group(self._tensor(places), mask, self._tensor(np.flatnonzero(inside)), queries)

    def _queries(self, places: np.ndarray, read: np.ndarray) -> Queries | None:
        """`places` and `read`: (n, l)."""
        counts = read.sum(axis=1)
        most = int(counts.max())
        if not most:
            return None
        there = np.arange(most)[None] < counts[:, None]  # (n, r)
        # Read tokens come first, in their order.
        positions = np.where(there, np.argsort(~read, axis=1, kind="stable")[:, :most], 0)
        number = np.cumsum(self._flags) - 1  # (T,) the place of a read token among the R.
        own = np.where(there, number[np.take_along_axis(places, positions, axis=1)], 0)
        return Queries(self._tensor(own), self._tensor(positions), self._tensor(np.flatnonzero(there)))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return to_device(torch.from_numpy(array), self.device)

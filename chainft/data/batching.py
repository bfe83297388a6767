"""From features to batches: the order of examples, the cut into micro-batches, and padding.

Everything random here is a pure function of (seed, epoch), so a resumed run finds its place without replaying.
A global batch is drawn at random, as the user asked; only inside it are features grouped by length, which
removes most padding and leaves the gradient of the batch what it was. Shapes: B rows, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from chainft.models.device import to_device

if TYPE_CHECKING:
    from chainft.tasks.base import Arrays, Column, Task


@dataclass(frozen=True)
class Batch:
    """Padded features, ready for the model."""

    inputs: dict[str, Tensor]
    """What the model's forward receives: (B, L) each, with `attention_mask`."""
    targets: dict[str, Tensor]
    """The other columns: (B, length of its axis), or (B, fixed) for a column without axis."""
    features: tuple[int, ...]
    """Which feature each row is."""
    lengths: Tensor
    """(B,) tokens of each row, without padding; stays on the CPU."""
    shares: Mapping[str, Share] = field(default_factory=dict)
    """Of several tasks that are learned together, what each has of the rows."""

    @property
    def has_targets(self) -> bool:
        return "labels" in self.targets or "labels" in self.inputs

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        if device.type == "cpu":
            return self
        return replace(
            self,
            inputs={name: to_device(tensor, device) for name, tensor in self.inputs.items()},
            targets={name: to_device(tensor, device) for name, tensor in self.targets.items()},
            shares={name: share.to(device) for name, share in self.shares.items()},
        )


@dataclass(frozen=True)
class Share:
    """The rows of a batch that one of several tasks learns from or answers."""

    rows: Tensor
    """(b,) their places in the whole batch."""
    batch: Batch
    """These rows alone, b of them, as the task by itself would have them."""
    num_examples: float
    """How many examples they are; a window is its part of one."""
    scale: float = 1.0
    """What the sum of their losses is multiplied by."""

    def to(self, device: torch.device) -> Share:
        """The same on `device`."""
        return replace(self, rows=to_device(self.rows, device), batch=self.batch.to(device))


def collate(rows: Sequence[Arrays], task: Task, features: Sequence[int]) -> Batch:
    """Pad `rows` on the right, each axis to the longest of the batch; `attention_mask` is that of `input_ids`."""
    padded = pad(rows, task.features, task.pad_token_id)
    inputs = {name: tensor for name, tensor in padded.items() if task.features[name].model_input}
    targets = {name: tensor for name, tensor in padded.items() if name not in inputs}
    tokens = _mask([row["input_ids"] for row in rows])
    inputs["attention_mask"] = torch.from_numpy(tokens.astype(np.int64))
    return Batch(inputs, targets, tuple(features), torch.from_numpy(tokens.sum(axis=1)))


def pad(rows: Sequence[Arrays], columns: Mapping[str, Column], pad_token_id: int) -> dict[str, Tensor]:
    """The columns that the rows have, each (B, length of its axis) or (B, fixed)."""
    masks: dict[str, np.ndarray] = {}
    padded: dict[str, Tensor] = {}
    for name, column in columns.items():
        if name not in rows[0]:
            continue
        arrays = [row[name] for row in rows]
        if column.axis is not None and column.axis not in masks:
            masks[column.axis] = _mask(arrays)
        mask = masks[column.axis] if column.axis is not None else None
        padded[name] = _stack(arrays, column, mask, pad_token_id)
    return padded


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """The examples of an epoch in random order, (num_examples,): a function of seed and epoch alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_examples)


def micro_batches(
    lengths: Sequence[int], *, max_rows: int, max_tokens: int | None = None, overhead: int = 64
) -> list[list[int]]:
    """Cut one global batch into micro-batches of like length, at the least cost; positions into `lengths`.

    Costs a micro-batch its padded tokens plus `overhead`, and finds the cheapest cut of the
    length-sorted rows by dynamic programming. A single row may exceed `max_tokens`, since it cannot be cut.

    >>> micro_batches([5, 60, 6, 50], max_rows=4)
    [[0, 2], [3, 1]]
    """
    order = sorted(range(len(lengths)), key=lambda position: (lengths[position], position))
    sizes = [lengths[position] for position in order]
    best = np.zeros(len(sizes) + 1, dtype=np.int64)
    cut = [0]
    for end, size in enumerate(sizes, start=1):
        most = max_rows if max_tokens is None else min(max_rows, max(1, max_tokens // max(1, size)))
        first = max(0, end - most)
        costs = best[first:end] + np.arange(end - first, 0, -1) * size
        start = int(costs.argmin())  # The first of several.
        best[end] = costs[start] + overhead
        cut.append(first + start)
    groups: list[list[int]] = []
    end = len(sizes)
    while end > 0:
        groups.append(order[cut[end] : end])
        end = cut[end]
    return groups[::-1]


def packed_batches(lengths: Sequence[int], *, max_rows: int, max_tokens: int | None = None) -> list[list[int]]:
    """Cut one global batch into micro-batches that run without padding, as few as the limits allow, by length.

    >>> packed_batches([5, 60, 6, 50], max_rows=4, max_tokens=64)
    [[0, 2, 3], [1]]
    """
    groups: list[list[int]] = []
    tokens = 0
    for position in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        tokens += lengths[position]
        if not groups or len(groups[-1]) == max_rows or (max_tokens is not None and tokens > max_tokens):
            groups.append([])
            tokens = lengths[position]
        groups[-1].append(position)
    return groups


def rank_shares(lengths: Sequence[int], num_ranks: int, *, padded: bool) -> list[list[int]]:
    """Divide one global batch among ranks so that the slowest has the least to do; positions into `lengths` a rank.

    Each rank gets rows of like length. Its cost is its tokens, with `padded` as many in each row as in its longest. The
    least possible largest cost is found by bisection over it, the rows taken in the order of their lengths. With fewer
    rows than ranks the last ranks get none.

    >>> rank_shares([5, 60, 6, 50], 2, padded=True)
    [[0, 2, 3], [1]]
    """
    order = sorted(range(len(lengths)), key=lambda position: (lengths[position], position))
    sizes = [lengths[position] for position in order]
    low, high = max(sizes, default=0), len(sizes) * max(sizes, default=0)
    while low < high:
        middle = (low + high) // 2
        if len(_filled(sizes, middle, padded=padded)) <= num_ranks:
            high = middle
        else:
            low = middle + 1
    ends = _filled(sizes, low, padded=padded)
    parts = [order[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    while len(parts) < min(num_ranks, len(order)):
        most = max(range(len(parts)), key=lambda number: len(parts[number]))
        half = len(parts[most]) // 2
        parts[most : most + 1] = [parts[most][:half], parts[most][half:]]
    return parts + [[] for _ in range(num_ranks - len(parts))]


def _filled(sizes: Sequence[int], limit: int, *, padded: bool) -> list[int]:
    """Where the parts end that are filled in order up to a cost of `limit`."""
    ends: list[int] = []
    rows = tokens = 0
    for position, size in enumerate(sizes):
        if rows and ((rows + 1) * size if padded else tokens + size) > limit:
            ends.append(position)
            rows = tokens = 0
        rows, tokens = rows + 1, tokens + size
    return [*ends, len(sizes)] if sizes else []


def by_length(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches for evaluation: features sorted by length, longest first so that memory peaks at once."""
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _mask(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """(B, L) where there is an entry, L the longest."""
    lengths = np.array([len(array) for array in arrays])
    mask: np.ndarray = np.arange(lengths.max())[None, :] < lengths[:, None]
    return mask


def _stack(arrays: Sequence[np.ndarray], column: Column, mask: np.ndarray | None, pad_token_id: int) -> Tensor:
    dtype = np.float32 if column.dtype == "float32" else np.int64
    if mask is None:
        return torch.from_numpy(np.stack(arrays).astype(dtype))
    padded = np.full(mask.shape, pad_token_id if column.pad == "pad_token" else column.pad, dtype=dtype)
    padded[mask] = np.concatenate(arrays)
    return torch.from_numpy(padded)


def feature_lengths(rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """(rows,) tokens of each feature."""
    return np.array([len(row["input_ids"]) for row in rows], dtype=np.int64)

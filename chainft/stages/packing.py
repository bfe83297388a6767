"""Batches without padding: the rows of a batch go through the blocks end to end, as one sequence.

Everything in a block but attention treats tokens one by one, so only attention needs to know where rows begin: in its
place runs one that attends within rows, a few rows of like length at a time. The head gets the hidden states padded
again. That a model allows this is tried, not assumed: see `packing_of`. Letters: B rows, T tokens of all rows, L tokens
of the longest, H heads, W width of a head, D width, n rows of a group, l tokens of its longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from chainft.data.batching import micro_batches
from chainft.errors import ChainftError
from chainft.stages.gates import Gates, Payload, probe_inputs
from chainft.stages.modes import evaluating
from chainft.stages.prologue import Idle, find_idle
from chainft.stages.spans import Span

NAME = "chainft_rows"
"""Name of the attention in transformers' table."""
GROUP_TOKENS = 48
"""Cost of one more group of rows in an attention, in tokens; it only moves time."""
TOLERANCE = 1e-4
"""Most difference of hidden states, of size about 1, from those of padded rows."""
_PROBE_LENGTHS = (9, 4, 7, 4)


@dataclass(frozen=True)
class Group:
    """Rows that attend together."""

    places: Tensor
    """(n, l) the place of each token among the T; 0 where a row has none."""
    mask: Tensor | None
    """(n, 1, 1, l) which tokens there are; None: all."""
    kept: Tensor
    """Places in (n * l) of the tokens that there are."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of each row are in a packed batch; rows are packed by length."""

    lengths: np.ndarray
    """(B,) tokens of each row."""
    device: torch.device
    windows: list[int] = field(default_factory=list)
    """Windows of attention that blocks asked for, where rows are shorter than these."""

    @cached_property
    def order(self) -> np.ndarray:
        """(B,) rows as they are packed."""
        return np.argsort(self.lengths, kind="stable")

    @cached_property
    def flat(self) -> Tensor:
        """(T,) places of the packed tokens in the padded batch (B * L)."""
        longest = int(self.lengths.max())
        found = [row * longest + np.arange(self.lengths[row]) for row in self.order]
        return torch.from_numpy(np.concatenate(found)).to(self.device)

    @cached_property
    def positions(self) -> Tensor:
        """(1, T) the position of each token in its row."""
        found = np.concatenate([np.arange(self.lengths[row]) for row in self.order])
        return torch.from_numpy(found)[None].to(self.device)

    @cached_property
    def groups(self) -> Sequence[Group]:
        sizes = self.lengths[self.order]
        starts = np.cumsum([0, *sizes])
        cuts = micro_batches(sizes.tolist(), max_rows=len(sizes), overhead=GROUP_TOKENS)
        return [self._group(starts[rows], sizes[rows]) for rows in map(sorted, cuts)]

    def _group(self, starts: np.ndarray, sizes: np.ndarray) -> Group:
        inside = np.arange(sizes.max())[None] < sizes[:, None]  # (n, l)
        places = np.where(inside, starts[:, None] + np.arange(sizes.max())[None], 0)
        mask = None if inside.all() else torch.from_numpy(inside)[:, None, None].to(self.device)
        kept = torch.from_numpy(np.flatnonzero(inside)).to(self.device)
        return Group(torch.from_numpy(places).to(self.device), mask, kept)

    def pack(self, padded: Tensor) -> Tensor:
        """(1, T, ...) of (B, L, ...)."""
        return padded.flatten(0, 1)[self.flat][None]

    def unpack(self, packed: Tensor) -> Tensor:
        """(B, L, D) of (1, T, D), zeros where there is no token."""
        rows, longest = len(self.lengths), int(self.lengths.max())
        places = self.flat.new_zeros(rows * longest)
        places[self.flat] = torch.arange(1, len(self.flat) + 1, device=self.device)
        table = functional.pad(packed[0], (0, 0, 1, 0))  # Row 0 is for the places without a token.
        return functional.embedding(places.view(rows, longest), table)


_LAYOUT: ContextVar[Layout] = ContextVar("chainft_layout")


def attend_within_rows(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """(1, T, H, W) of query, key and value (1, H, T, W); key and value may have fewer heads (grouped queries).

    Raises ValueError for kinds of attention that it does not know: another mask, soft caps, sinks.
    """
    if attention_mask is not None or any(
        others.get(name) is not None for name in ("softcap", "s_aux", "position_bias")
    ):
        raise ValueError("attention with more than query, key and value")
    layout = _LAYOUT.get()
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    if sliding_window is not None:
        layout.windows.append(sliding_window)
        if layout.lengths.max() >= sliding_window:
            raise ValueError("rows longer than the window of attention")
    if key.shape[1] != query.shape[1]:
        key, value = (one.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for one in (key, value))
    heads, width = query.shape[1], query.shape[3]
    table = torch.cat([one[0].transpose(0, 1).flatten(1) for one in (query, key, value)], dim=1)  # (T, 3 * H * W)
    found = []
    for group in layout.groups:
        rows = functional.embedding(group.places, table)  # (n, l, 3 * H * W); its backward pass is a fast one.
        q, k, v = rows.view(*group.places.shape, 3, heads, width).permute(2, 0, 3, 1, 4)  # (n, H, l, W) each
        mask = None if causal else group.mask  # What a causal row sees beyond its end, nobody reads.
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scaling
        )
        flat = out.transpose(1, 2).reshape(-1, heads * width)  # (n * l, H * W)
        found.append(flat if group.mask is None else functional.embedding(group.kept, flat))
    return torch.cat(found).view(1, -1, heads, width), None


class Packing:
    """Runs batches of a model without padding."""

    def __init__(self, gates: Gates, first_position: int) -> None:
        """`first_position`: the number of the first position of a text, which is not 0 for RoBERTa and its kin."""
        self.gates = gates
        self._first = first_position
        self.longest: int | None = None
        """Rows must be shorter than this: the least window of attention."""
        self._num_blocks = gates.blocks.num_blocks
        self._head = Span(self._num_blocks, self._num_blocks, embeddings=False, head=True)

    @cached_property
    def _idle(self) -> Sequence[Idle]:
        """What the model computes for nothing before blocks that are given what comes from elsewhere."""
        inputs = probe_inputs(self.gates.model)
        before = Span(0, self._num_blocks, embeddings=True, head=False)
        with evaluating(self.gates.model), torch.no_grad():
            payload = self.gates.run(before, None, inputs)
        return find_idle(self.gates, self._head, payload)

    def takes(self, lengths: np.ndarray) -> bool:
        """Whether rows of these lengths can run so."""
        return self.longest is None or int(lengths.max()) < self.longest

    def run(
        self, inputs: Mapping[str, Any], lengths: np.ndarray, *, states: Tensor | None = None, start: int = 0
    ) -> Any:
        """The model's output for a padded batch with rows of these lengths.

        `states` (B, L, D): what goes into block `start`; None: the embeddings.
        """
        layout = Layout(lengths, self.gates.model.device)
        with ExitStack() as stack:
            for one in self._idle if states is not None else ():
                stack.enter_context(one.left_out())
            hidden = layout.unpack(self.hidden(inputs, layout, states=states, start=start))
        with ExitStack() as stack:
            for one in self._idle:
                stack.enter_context(one.left_out())
            return self.gates.run(self._head, Payload(hidden), inputs)

    def hidden(
        self, inputs: Mapping[str, Any], layout: Layout, *, states: Tensor | None = None, start: int = 0
    ) -> Tensor:
        """(1, T, D) what the last block gives."""
        names = [name for name in ("input_ids", "token_type_ids") if name in inputs]
        packed = {name: layout.pack(inputs[name]) for name in names}
        packed["position_ids"] = layout.positions + self._first
        received = None if states is None else Payload(layout.pack(states))
        span = Span(start, self._num_blocks, embeddings=states is None, head=False)
        with _attending(self.gates.model, layout):
            found = self.gates.run(span, received, packed)
        hidden: Tensor = found.hidden
        return hidden


@contextmanager
def _attending(model: PreTrainedModel, layout: Layout) -> Iterator[None]:
    """For the time of a call, attention stays within rows."""
    before = model.config._attn_implementation
    token = _LAYOUT.set(layout)
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before
        _LAYOUT.reset(token)


def packing_of(model: PreTrainedModel) -> Packing | None:
    """How batches of a model run without padding; None for a model that gives other hidden states then.

    Tried with a few rows of random words: relative positions, convolutions, windows of attention and the like show.
    """
    if model.config.is_encoder_decoder:
        return None
    AttentionInterface.register(NAME, attend_within_rows)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
    try:
        gates = Gates(model)
        expected = _padded_states(gates)
    except (ChainftError, NotImplementedError):
        return None
    pad = model.config.get_text_config().pad_token_id or 0
    for first in dict.fromkeys((0, pad + 1)):
        packing = Packing(gates, first)
        found = _tried(packing)
        if found is not None and torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
            return packing
    return None


def _probe(model: PreTrainedModel) -> tuple[dict[str, Tensor], np.ndarray]:
    lengths = np.array(_PROBE_LENGTHS)
    config = model.config.get_text_config()
    pad = config.pad_token_id or 0
    words = np.random.default_rng(0).integers(5, config.vocab_size, (len(lengths), lengths.max()))
    mask = np.arange(lengths.max())[None] < lengths[:, None]
    ids = np.where(mask, np.where(words == pad, 5, words), pad)
    device = model.device
    return {
        "input_ids": torch.from_numpy(ids).to(device),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(device),
    }, lengths


def _padded_states(gates: Gates) -> Tensor:
    """(T, D) of the probe, padded, without the padding."""
    inputs, _ = _probe(gates.model)
    span = Span(0, gates.blocks.num_blocks, embeddings=True, head=False)
    with evaluating(gates.model), torch.no_grad():
        hidden = gates.run(span, None, inputs).hidden
    found: Tensor = hidden[:, : inputs["input_ids"].shape[1]][inputs["attention_mask"].bool()]
    return found


def _tried(packing: Packing) -> Tensor | None:
    """The same, packed; None where the model cannot be run so."""
    inputs, lengths = _probe(packing.gates.model)
    layout = Layout(lengths, packing.gates.model.device)
    try:
        with evaluating(packing.gates.model), torch.no_grad():
            hidden = layout.unpack(packing.hidden(inputs, layout))
        packing.longest = min(layout.windows, default=None)
    except (TypeError, ValueError, IndexError, RuntimeError, LookupError):
        return None  # No `position_ids`, another attention, positions beyond the table, ...
    return hidden[inputs["attention_mask"].bool()]

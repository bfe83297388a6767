"""Attention of short rows on a CPU, written out: products of small matrices, with its own backward pass.

torch has a fused attention for CPUs, which is made for long rows and has no dropout; without it, torch's autograd makes
a zeroed copy of all tokens for each group of rows. Here tokens are gathered into groups and gradients gathered back,
and the probabilities are kept for the backward pass, as training with dropout must anyhow. Formulas: Vaswani et al.
2017; Dao et al. 2022 (appendix B) for the gradients.

Letters: T tokens of all rows, R tokens that attend (all, or those that are read), H heads, W width of a head, n rows of a group,
l tokens of its longest, r tokens that attend of the row with most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from chainft.stages.dropout import is_quick, keep_mask
from chainft.stages.packed_layout import Group, Layout

LONGEST = 256
"""Tokens of a row up to which this is quicker than torch's fused attention, where there is no dropout."""


@dataclass(frozen=True)
class Slots:
    """Where the heads of a group's tokens go."""

    shape: tuple[int, int]
    """(n * H, l)."""
    places: Tensor
    """(n * H * l) the place of each among the T * H; any where a row has none."""
    kept: Tensor
    """Places in (n * H * l) of the heads of the group's tokens, token by token."""
    inside: Tensor | None
    """(n * H, l, 1) 1 where there is a token, else 0; None: all are there."""

    def gather(self, table: Tensor) -> Tensor:
        """(n * H, l, W) of a table (T * H, W)."""
        return table.index_select(0, self.places).view(*self.shape, -1)

    def put(self, found: Tensor, table: Tensor, start: int) -> int:
        """Copy (n * H, l, W) of a group to its place in a table (T * H, W), from row `start` on; where it ends."""
        end = start + len(self.kept)
        torch.index_select(found.flatten(0, 1), 0, self.kept, out=table[start:end])
        return end


@dataclass(frozen=True)
class _Rows:
    """A group of rows."""

    queries: Slots | None
    """Of the tokens that attend; None: none does."""
    keys: Slots
    bias: Tensor | None
    """(n * H or 1, 1 or r, l) what is added to the scores: minus infinity for what is not seen; None: all is seen."""


def suits(parts: Sequence[Tensor], layout: Layout, dropout: float) -> bool:
    """Whether queries (1, H, R, W), keys and values (1, H, T, W) of rows are best served here: in float32 throughout,
    since the backward pass does not run under autocast."""
    if any(one.device.type != "cpu" or one.dtype != torch.float32 for one in parts):
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    return is_quick(parts[0], dropout) if dropout else int(layout.lengths.max()) <= LONGEST


def attend(
    layout: Layout,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    some: bool = False,
    dropout_p: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """(1, R, H, W) of queries (1, H, R, W), keys and values (1, H, T, W). `some`: only the read tokens attend."""
    heads, width = query.shape[1], query.shape[3]
    tables = [one.transpose(1, 2).reshape(-1, width) for one in (query, key, value)]
    made = layout.made.get((heads, causal, some))
    if made is None:  # Once for a layout: all blocks attend alike.
        made = layout.made[heads, causal, some] = [_rows(group, heads, causal, some) for group in layout.groups]
    factor = 1 / math.sqrt(width) if scale is None else scale
    found: Tensor = _Attention.apply(*tables, made, factor, dropout_p)  # type: ignore[no-untyped-call]
    return found.view(1, -1, heads, width)


class _Attention(torch.autograd.Function):
    """(R * H, W) of queries (R * H, W), keys and values (T * H, W)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Sequence[_Rows], scale: float, dropout_p: float
    ) -> Tensor:
        found, end, saved = torch.empty_like(query), 0, []
        for one in rows:
            if one.queries is None:
                continue
            q, k, v = one.queries.gather(query).mul_(scale), one.keys.gather(key), one.keys.gather(value)
            transposed = k.transpose(1, 2)
            # (n * H, r, l)
            scores = torch.bmm(q, transposed) if one.bias is None else torch.baddbmm(one.bias, q, transposed)
            probabilities = torch.softmax(scores, dim=-1)
            mask = keep_mask(probabilities.shape, dropout_p) if dropout_p else None
            weights = probabilities if mask is None else probabilities * mask
            end = one.queries.put(torch.bmm(weights, v), found, end)
            saved += [q, k, v, probabilities, *([] if mask is None else [mask])]
        ctx.save_for_backward(*saved)
        ctx.rows, ctx.scale, ctx.each, ctx.keys_shape = rows, scale, 5 if dropout_p else 4, key.shape
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        saved, scale = _chunks(ctx.saved_tensors, ctx.each), ctx.scale
        tables = [torch.empty_like(gradient), *(gradient.new_empty(ctx.keys_shape) for _ in range(2))]
        own = others = 0
        for one in ctx.rows:
            if one.queries is None:
                end = others + len(one.keys.kept)
                for table in tables[1:]:
                    table[others:end] = 0.0
                others = end
                continue
            q, k, v, probabilities, *masks = next(saved)
            out = one.queries.gather(gradient)
            if one.queries.inside is not None:
                out.mul_(one.queries.inside)
            weights = probabilities * masks[0] if masks else probabilities
            of_v = torch.bmm(weights.transpose(1, 2), out)
            of_weights = torch.bmm(out, v.transpose(1, 2))
            of_probabilities = of_weights.mul_(masks[0]) if masks else of_weights
            of_scores = torch.ops.aten._softmax_backward_data(of_probabilities, probabilities, -1, torch.float32)
            own = one.queries.put(torch.bmm(of_scores, k).mul_(scale), tables[0], own)
            one.keys.put(torch.bmm(of_scores.transpose(1, 2), q), tables[1], others)  # The queries are scaled already.
            others = one.keys.put(of_v, tables[2], others)
        return (*tables, None, None, None)


def _chunks(tensors: Sequence[Tensor], each: int) -> Iterator[Sequence[Tensor]]:
    for start in range(0, len(tensors), each):
        yield tensors[start : start + each]


def _rows(group: Group, heads: int, causal: bool, some: bool) -> _Rows:
    inside = None if group.mask is None else group.mask[:, 0, 0].numpy()  # (n, l)
    keys = _slots(group.places.numpy(), group.kept.numpy(), inside, heads)
    if not some:
        bias = _before(torch.arange(keys.shape[1])[None], keys.shape[1]) if causal else None  # (1, l, l)
        return _Rows(keys, keys, _padding(keys) if bias is None else bias)
    if group.queries is None:
        return _Rows(None, keys, None)
    places, kept = group.queries.places.numpy(), group.queries.kept.numpy()
    there = np.zeros(places.size, bool)
    there[kept] = True
    queries = _slots(places, kept, there.reshape(places.shape), heads)
    if not causal:
        return _Rows(queries, keys, _padding(keys))
    return _Rows(queries, keys, _before(group.queries.positions, keys.shape[1]).repeat_interleave(heads, dim=0))


def _before(positions: Tensor, longest: int) -> Tensor:
    """(n, r, l) the bias of tokens at `positions` (n, r) that see those before and themselves. What a row sees beyond
    its end, nobody reads."""
    after = torch.arange(longest) > positions[..., None]
    return torch.zeros(after.shape).masked_fill(after, -math.inf)


def _padding(keys: Slots) -> Tensor | None:
    """(n * H, 1, l)."""
    if keys.inside is None:
        return None
    missing = keys.inside.transpose(1, 2) == 0
    return torch.zeros(missing.shape).masked_fill(missing, -math.inf)


def _slots(places: np.ndarray, kept: np.ndarray, inside: np.ndarray | None, heads: int) -> Slots:
    """Of tokens (n, l) the slots of their heads. By NumPy, whose calls on small arrays cost far less than torch's."""
    rows, longest = places.shape
    own = np.arange(rows * heads * longest).reshape(rows, heads, longest).transpose(0, 2, 1)  # (n, l, H)
    there = None
    if inside is not None and not inside.all():
        there = torch.from_numpy(inside.repeat(heads, axis=0)[..., None].astype(np.float32))
    return Slots(
        (rows * heads, longest),
        torch.from_numpy((places[:, None] * heads + np.arange(heads)[:, None]).reshape(-1)),  # (n, H, l)
        torch.from_numpy(own.reshape(-1, heads)[kept].reshape(-1)),
        there,
    )

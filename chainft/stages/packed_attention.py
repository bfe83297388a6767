"""Attention within the rows of a batch that stand end to end: what runs in place of a model's own.

Letters: T tokens of all rows, R tokens whose last hidden states are read, H heads, W width of a head, n rows of a group,
l tokens of its longest, r read tokens of the row that has most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from chainft.stages import flash_rows, row_attention
from chainft.stages.last_block import narrowed
from chainft.stages.packed_layout import Group, Layout

NAME = "chainft_rows"
"""Name of the attention in transformers' table."""

TRIAL = "trial"
"""In `Layout.made`, where a GPU's kernel is tried: what each attention gave by it (T, H * W), None where it did not run,
and what it should have given."""

_LAYOUT: ContextVar[Layout] = ContextVar("chainft_layout")


def register() -> None:
    """Make the attention known to transformers."""
    AttentionInterface.register(NAME, attend_within_rows)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)


@contextmanager
def attending(
    configs: Sequence[PreTrainedConfig],
    layout: Layout,
    *,
    kernel: bool = False,
    bounds: tuple[Tensor, int] | None = None,
) -> Iterator[None]:
    """For the time of a call, attention stays within rows; `kernel`: by that of a GPU, for `bounds` (ends of rows, and
    tokens of the longest, as in `flash_rows.Bounds`) in place of the layout's."""
    before = [config._attn_implementation for config in configs]
    token = _LAYOUT.set(layout)
    before_bounds = flash_rows.BOUNDS.ends, flash_rows.BOUNDS.longest
    if bounds is None:
        flash_rows.BOUNDS.of(layout if kernel else None)
    else:
        flash_rows.BOUNDS.ends, flash_rows.BOUNDS.longest = bounds
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config, kind in zip(configs, before, strict=True):
            config._attn_implementation = kind
        _LAYOUT.reset(token)
        flash_rows.BOUNDS.ends, flash_rows.BOUNDS.longest = before_bounds


def configs_of(model: PreTrainedModel) -> list[PreTrainedConfig]:
    """Those from which modules take their kind of attention: a stage with its own rate of dropout has its own."""
    found = [getattr(module, "config", None) for module in model.modules()]
    return list({id(one): one for one in found if isinstance(one, PreTrainedConfig)}.values())


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
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    bounds = flash_rows.BOUNDS
    if bounds.ends is not None:
        query, key = flash_rows.in_type_of(value, query), flash_rows.in_type_of(value, key)
    if torch.compiler.is_compiling():  # Of a block, on a GPU, for all tokens: see `compiled`.
        if bounds.ends is None or not flash_rows.suits(query):
            raise ValueError("attention that cannot be compiled")
        out = flash_rows.attend(
            query, key, value, bounds.ends, bounds.longest, causal=causal, dropout_p=dropout, scale=scaling
        )
        return out, None
    layout = _LAYOUT.get()
    if sliding_window is not None:
        layout.windows.append(sliding_window)
        if layout.lengths.max() >= sliding_window:
            raise ValueError("rows longer than the window of attention")
    if bounds.ends is not None and flash_rows.suits(query) and (narrowed() is None or not causal):
        expected = _expected(layout, query, key, value, causal, scaling) if TRIAL in layout.made else None
        found = _by_kernel(layout, query, key, value, causal=causal, dropout_p=dropout, scale=scaling)
        if expected is not None:
            layout.made[TRIAL].append((found[0].flatten(1), expected[0].flatten(1)))
        return found, None
    if TRIAL in layout.made and narrowed() is None:  # Of causal attention for read tokens alone there is no kernel.
        layout.made[TRIAL].append((None, None))
    if key.shape[1] != query.shape[1]:
        key, value = (one.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for one in (key, value))
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}
    if row_attention.suits((query, key, value), layout, dropout):
        return _written_out(layout, query, key, value, causal=causal, **options), None
    narrow = narrowed()
    if narrow is not None:
        out = _read_tokens(layout, narrow.read, (query, key, value), causal=causal, **options)
        narrow.begin()
        return out, None
    return _by_groups(layout, query, key, value, causal=causal, **options), None


def _by_groups(layout: Layout, query: Tensor, key: Tensor, value: Tensor, *, causal: bool, **options: Any) -> Tensor:
    """(1, T, H, W), a group of rows of like length at a time."""
    heads, width = query.shape[1], query.shape[3]
    if key.shape[1] != heads:
        key, value = (one.repeat_interleave(heads // one.shape[1], dim=1) for one in (key, value))
    table = torch.cat([one[0].transpose(0, 1).flatten(1) for one in (query, key, value)], dim=1)  # (T, 3 * H * W)
    found = []
    for group in layout.groups:
        rows = functional.embedding(group.places, table)  # (n, l, 3 * H * W); its backward pass is a fast one.
        q, k, v = rows.view(*group.places.shape, 3, heads, width).permute(2, 0, 3, 1, 4)  # (n, H, l, W) each
        mask = None if causal else group.mask  # What a causal row sees beyond its end, nobody reads.
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, **options)
        flat = out.transpose(1, 2).reshape(-1, heads * width)  # (n * l, H * W)
        found.append(flat if group.mask is None else functional.embedding(group.kept, flat))
    return torch.cat(found).view(1, -1, heads, width)


def _by_kernel(layout: Layout, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """(1, T, H, W), or (1, R, H, W) where only the read tokens attend."""
    narrow, bounds = narrowed(), flash_rows.BOUNDS
    if narrow is None:
        assert bounds.ends is not None
        return flash_rows.attend(query, key, value, bounds.ends, bounds.longest, **options)
    ends, most = layout.read_ends
    chosen = query.index_select(2, narrow.read)
    out = flash_rows.attend(chosen, key, value, layout.ends, layout.longest, query_ends=ends, most=most, **options)
    narrow.begin()
    return out


def _written_out(layout: Layout, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """(1, T, H, W), or (1, R, H, W) where only the read tokens attend."""
    narrow = narrowed()
    if narrow is None:
        return row_attention.attend(layout, query, key, value, **options)
    # Token by token, as they lie in memory.
    chosen = query.transpose(1, 2).index_select(1, narrow.read).transpose(1, 2)
    out = row_attention.attend(layout, chosen, key, value, some=True, **options)
    narrow.begin()
    return out


def _expected(layout: Layout, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float | None) -> Tensor:
    """What the kernel should give, where it is tried."""
    narrow = narrowed()
    if narrow is None:
        return _by_groups(layout, query, key, value, causal=causal, scale=scale)
    key, value = (one.repeat_interleave(query.shape[1] // one.shape[1], dim=1) for one in (key, value))
    return _read_tokens(layout, narrow.read, (query, key, value), causal=causal, scale=scale)


def _read_tokens(
    layout: Layout, read: Tensor, parts: tuple[Tensor, Tensor, Tensor], *, causal: bool, **options: Any
) -> Tensor:
    """(1, R, H, W) of queries, keys and values (1, H, T, W): what the read tokens get from all of their rows."""
    heads = parts[0].shape[1]
    tables = [one[0].transpose(0, 1).flatten(1) for one in parts]  # (T, H * W) each
    queries = functional.embedding(read, tables[0])  # (R, H * W)
    table = torch.cat(tables[1:], dim=1)  # (T, 2 * H * W)
    found = []
    for group in layout.groups:
        if group.queries is None:
            continue
        own = functional.embedding(group.queries.places, queries)  # (n, r, H * W)
        q = own.view(*own.shape[:2], heads, -1).transpose(1, 2)  # (n, H, r, W)
        rows = functional.embedding(group.places, table)
        k, v = rows.view(*group.places.shape, 2, heads, -1).permute(2, 0, 3, 1, 4)  # (n, H, l, W) each
        mask = _before(group) if causal else group.mask
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options)
        flat = out.transpose(1, 2).flatten(0, 1).flatten(1)  # (n * r, H * W)
        found.append(functional.embedding(group.queries.kept, flat))
    return torch.cat(found).view(1, len(read), heads, -1)


def _before(group: Group) -> Tensor:
    """(n, 1, r, l) the tokens that each read token sees in a causal attention."""
    assert group.queries is not None
    places = torch.arange(group.places.shape[1], device=group.places.device)
    return (places <= group.queries.positions[..., None])[:, None]

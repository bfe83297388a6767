"""Attention within rows that is written out gives what torch's gives row by row, and the same gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from chainft.stages import row_attention
from chainft.stages.packed_layout import Layout
from chainft.stages.packing import packing_of
from chainft.stages.row_attention import attend, suits
from tests.stages.architectures import tiny_model

HEADS, WIDTH = 3, 4


def tables(tokens: int, seed: int = 0) -> list[Tensor]:
    """(1, H, T, W) of query, key and value."""
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(1, HEADS, tokens, WIDTH, generator=made).requires_grad_() for _ in range(3)]


def layout_of(lengths: list[int], read: np.ndarray | None = None) -> Layout:
    return Layout(np.array(lengths), torch.device("cpu"), read)


def row_by_row(layout: Layout, parts: list[Tensor], *, causal: bool, scale: float | None = None) -> Tensor:
    """(1, T, H, W) by torch, each row alone."""
    sizes = layout.lengths[layout.order].tolist()
    rows = zip(*(one.split(sizes, dim=2) for one in parts), strict=True)
    found = [functional.scaled_dot_product_attention(*row, is_causal=causal, scale=scale) for row in rows]
    return torch.cat(found, dim=2).transpose(1, 2)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9),
    causal=st.booleans(),
    scale=st.sampled_from([None, 0.3]),
)
@settings(max_examples=40, deadline=None)
def test_output_and_gradients_are_those_of_each_row_alone(
    lengths: list[int], causal: bool, scale: float | None
) -> None:
    parts = tables(sum(lengths))
    layout = layout_of(lengths)
    found = attend(layout, *parts, causal=causal, scale=scale)
    expected = row_by_row(layout, parts, causal=causal, scale=scale)
    assert torch.allclose(found, expected, atol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    mine = torch.autograd.grad((found * weights).sum(), parts)
    theirs = torch.autograd.grad((expected * weights).sum(), parts)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), causal=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_read_tokens_get_what_they_get_among_all(lengths: list[int], causal: bool, seed: int) -> None:
    there = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
    read = there & (np.random.default_rng(seed).random(there.shape) < 0.3)
    read[0, 0] = True
    layout = layout_of(lengths, read)
    places = layout.read_places
    q, k, v = tables(sum(lengths), seed)
    expected = row_by_row(layout, [q, k, v], causal=causal)[:, places]
    found = attend(layout, q.index_select(2, places), k, v, causal=causal, some=True)
    assert torch.allclose(found, expected, atol=1e-5)
    mine = torch.autograd.grad(found.square().sum(), [q, k, v])
    theirs = torch.autograd.grad(expected.square().sum(), [q, k, v])
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_gradient_with_dropout_is_the_slope_of_the_same_draw(causal: bool) -> None:
    """Against the difference quotient, in single precision, each time with the same random state."""
    layout = layout_of([5, 3, 8])
    parts = tables(16, 4)
    weights = torch.randn(1, 16, HEADS, WIDTH, generator=torch.Generator().manual_seed(2))

    def value(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch.manual_seed(11)
        return (attend(layout, q, k, v, causal=causal, dropout_p=0.3) * weights).sum()

    slopes = torch.autograd.grad(value(*parts), parts)
    for place, slope in enumerate(slopes):
        direction = torch.randn(slope.shape, generator=torch.Generator().manual_seed(place))
        up, down = list(parts), list(parts)
        up[place], down[place] = parts[place] + 1e-2 * direction, parts[place] - 1e-2 * direction
        quotient = float((value(*up) - value(*down)).detach()) / 2e-2
        assert quotient == pytest.approx(float((slope * direction).sum()), rel=2e-2, abs=2e-3)


def test_dropout_keeps_the_mean_and_draws_anew() -> None:
    layout = layout_of([6, 6, 9])
    parts = tables(21)
    plain = attend(layout, *parts, causal=False)
    torch.manual_seed(0)
    drawn = [attend(layout, *parts, causal=False, dropout_p=0.2).detach() for _ in range(4000)]
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.allclose(torch.stack(drawn).mean(0), plain, atol=0.06)


def test_what_a_group_pads_with_is_never_seen() -> None:
    """Rows of unlike length attend together: a NaN of one must not reach another."""
    lengths = [4, 5]
    layout = layout_of(lengths)
    assert [group.places.shape for group in layout.groups] == [(2, 5)]
    parts = [one.detach() for one in tables(9)]
    for one in parts:
        one[:, :, 8] = math.nan  # The last token of the longer row.
    found = attend(layout, *parts, causal=False)
    assert found[:, :4].isfinite().all() and found[:, 4:].isnan().all()


def test_other_types_and_long_rows_without_dropout_are_left_to_torch() -> None:
    parts = [torch.randn(1, HEADS, 4, WIDTH)] * 3
    short, long = layout_of([4]), layout_of([row_attention.LONGEST + 1])
    assert suits(parts, short, 0.0) and suits(parts, long, 0.1)
    assert not suits(parts, long, 0.0) and not suits(parts, short, 1.0)
    assert not suits([*parts[:2], parts[2].bfloat16()], short, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits(parts, short, 0.0)


@pytest.mark.parametrize("case", ["qwen3:causal", "stablelm:causal", "gemma3_text:causal", "bert:tokens"])
def test_models_that_mix_types_under_autocast_train_without_padding(case: str) -> None:
    """Norms of queries and keys give float32 beside values in bf16."""
    model = tiny_model(case)
    packing = packing_of(model)
    if packing is None:
        pytest.skip(f"{case} runs padded")
    lengths = np.array([7, 4, 6])
    mask = torch.from_numpy((np.arange(7)[None] < lengths[:, None]).astype(np.int64))
    inputs = {"input_ids": torch.randint(5, 20, (3, 7)) * mask, "attention_mask": mask}
    with torch.autocast("cpu", torch.bfloat16):
        logits = packing.run(inputs, lengths).logits
        expected = model(**inputs).logits
    logits.float().square().sum().backward()
    assert torch.allclose(logits[mask.bool()].float(), expected[mask.bool()].float(), atol=0.05)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

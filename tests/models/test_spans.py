"""Stretches by start and end logits: exact, blind to padding, and learned as transformers learns them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from chainft.models.spans import best_spans, log_probabilities, span_losses


def drawn(rows: int, length: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Logits of start and end, candidates, and where stretches may begin and end."""
    generator = torch.Generator().manual_seed(seed)
    start, end = (torch.randn(rows, length, generator=generator) * 3 for _ in range(2))
    candidates, begins, ends = (torch.rand(rows, length, generator=generator) < 0.7 for _ in range(3))
    candidates[:, 0] = True
    begins, ends = begins & candidates, ends & candidates
    begins[:, 0] = ends[:, 0] = False
    return start, end, candidates, begins, ends


@given(length=st.integers(1, 12), longest=st.integers(1, 6), most=st.integers(1, 30), seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_best_spans_are_those_of_all(length: int, longest: int, most: int, seed: int) -> None:
    """Against every pair of places, one by one."""
    start, end, candidates, begins, ends = drawn(2, length, seed)
    found = best_spans((start, end), candidates, (begins, ends), longest=longest, most=most)
    for row in range(2):
        kept = [place for place in range(length) if candidates[row, place]]
        shares = [
            {
                place: float(one[row, place]) - math.log(sum(math.exp(float(one[row, k])) for k in kept))
                for place in kept
            }
            for one in (start, end)
        ]
        pairs = [
            (shares[0][i] + shares[1][j], i, j)
            for i, j in itertools.product(kept, kept)
            if begins[row, i] and ends[row, j] and i <= j < i + longest
        ]
        expected = sorted(pairs, key=lambda pair: -pair[0])[:most]
        there = torch.isfinite(found.scores[row])
        assert int(there.sum()) == len(expected)
        assert found.scores[row][there].tolist() == pytest.approx([score for score, _, _ in expected], abs=1e-4)
        assert set(zip(found.starts[row][there].tolist(), found.ends[row][there].tolist(), strict=True)) <= {
            (i, j) for _, i, j in pairs
        }
        assert float(found.null[row]) == pytest.approx(shares[0][0] + shares[1][0], abs=1e-4)


def test_padding_changes_neither_losses_nor_spans() -> None:
    start, end, candidates, begins, ends = drawn(3, 9, 1)
    labels = torch.tensor([[0, 0], [2, 4], [1, 1]])
    candidates[1, 2] = candidates[1, 4] = candidates[2, 1] = True
    wide = [functional.pad(one, (0, 5), value=7.0) for one in (start, end)]
    flags = [functional.pad(one, (0, 5)) for one in (candidates, begins, ends)]
    torch.testing.assert_close(
        span_losses(wide[0], wide[1], flags[0], labels), span_losses(start, end, candidates, labels)
    )
    found = best_spans((wide[0], wide[1]), flags[0], (flags[1], flags[2]), longest=4, most=6)
    expected = best_spans((start, end), candidates, (begins, ends), longest=4, most=6)
    there = torch.isfinite(expected.scores)
    assert torch.equal(torch.isfinite(found.scores), there)
    for one, other in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(one[there], other[there])
    torch.testing.assert_close(found.null, expected.null)


def test_loss_equals_that_of_transformers_where_all_tokens_are_candidates() -> None:
    from transformers import BertConfig, BertForQuestionAnswering

    torch.manual_seed(0)
    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    model = BertForQuestionAnswering(config).eval()
    ids, labels = torch.randint(5, 20, (3, 7)), torch.tensor([[0, 0], [2, 5], [6, 6]])
    with torch.no_grad():
        output = model(ids, start_positions=labels[:, 0], end_positions=labels[:, 1])
    losses = span_losses(output.start_logits, output.end_logits, torch.ones_like(ids, dtype=torch.bool), labels)
    assert float(losses.mean()) == pytest.approx(float(output.loss), rel=1e-6)


def test_candidates_alone_have_probability_and_gradient() -> None:
    logits = torch.randn(1, 5, requires_grad=True)
    candidates = torch.tensor([[True, False, True, True, False]])
    found = log_probabilities(logits, candidates)
    assert float(found.detach().exp().sum()) == pytest.approx(1.0)
    span_losses(logits, logits, candidates, torch.tensor([[2, 3]])).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert logits.grad[0, 1] == logits.grad[0, 4] == 0


def test_half_precision_logits_are_scored_in_float32() -> None:
    start, end, candidates, begins, ends = drawn(1, 9, 2)
    scores = best_spans((start.bfloat16(), end.bfloat16()), candidates, (begins, ends), longest=3, most=4).scores
    assert scores.dtype == torch.float32

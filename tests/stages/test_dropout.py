"""Quick dropout is dropout: its rate, its mean, torch's generator, and torch's own where it cannot stand for it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from chainft.stages.dropout import QuickDropout, is_quick, keep_mask, quicken


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1 / 65536])
def test_rate_and_factor_are_those_asked_for(p: float) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.Size([1000, 1001]), p)
    zeroed = int((mask == 0).sum())
    count = mask.numel()
    assert abs(zeroed - count * p) < 5 * math.sqrt(count * p * (1 - p)) + count / 65536
    assert mask.unique().tolist() == [0.0, pytest.approx(1 / (1 - round(65536 * p) / 65536), rel=1e-6)]


def test_factor_keeps_the_mean_exactly_for_the_rate_that_is_drawn() -> None:
    """0.3 is 19661 / 65536 to 16 bits."""
    assert float(keep_mask(torch.Size([100]), 0.3).max()) == pytest.approx(65536 / (65536 - 19661), rel=1e-7)


def test_entries_are_zeroed_independently_of_their_neighbours() -> None:
    """Four entries come from one draw."""
    torch.manual_seed(1)
    zero = (keep_mask(torch.Size([200_000, 4]), 0.25) == 0).double()
    correlation = torch.corrcoef(zero.T) - torch.eye(4)
    assert float(correlation.abs().max()) < 0.012  # 5 standard deviations
    patterns = (zero @ torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)).long().bincount(minlength=16)
    assert int(patterns.min()) > 0


def test_draws_come_from_the_generator_of_torch() -> None:
    torch.manual_seed(7)
    first = keep_mask(torch.Size([33]), 0.5)
    state = torch.get_rng_state()
    second = keep_mask(torch.Size([33]), 0.5)
    torch.set_rng_state(state)
    assert torch.equal(keep_mask(torch.Size([33]), 0.5), second)
    torch.manual_seed(7)
    assert torch.equal(keep_mask(torch.Size([33]), 0.5), first)
    assert not torch.equal(first, second)


def test_gradient_is_zero_where_the_entry_is_and_scaled_elsewhere() -> None:
    torch.manual_seed(3)
    given = torch.randn(50, 7, requires_grad=True)
    out = QuickDropout(0.4)(given)
    out.sum().backward()
    assert given.grad is not None
    assert torch.equal(given.grad == 0, out == 0)
    assert torch.allclose(given.grad[out != 0], torch.tensor(65536 / (65536 - round(0.4 * 65536))))


@pytest.mark.parametrize("p", [0.0, 1.0, 1e-6])
def test_rates_that_16_bits_do_not_have_are_left_to_torch(p: float) -> None:
    given = torch.randn(40, 40)
    assert not is_quick(given, p)
    torch.manual_seed(5)
    found = QuickDropout(p)(given)
    torch.manual_seed(5)
    assert torch.equal(found, functional.dropout(given, p))


def test_other_types_are_left_to_torch() -> None:
    given = torch.randn(64, 8, dtype=torch.bfloat16)
    torch.manual_seed(5)
    found = QuickDropout(0.5)(given)
    torch.manual_seed(5)
    assert torch.equal(found, functional.dropout(given, 0.5))


def test_evaluation_draws_nothing() -> None:
    given, module = torch.randn(5), QuickDropout(0.5).eval()
    state = torch.get_rng_state()
    assert module(given) is given
    assert torch.equal(torch.get_rng_state(), state)


def test_only_plain_dropout_modules_are_quickened_and_keep_what_hangs_on_them() -> None:
    calls: list[int] = []
    model = nn.Sequential(nn.Dropout(0.2), nn.Dropout(0.2, inplace=True), nn.AlphaDropout(0.2), nn.Linear(2, 2))
    model[0].register_forward_hook(lambda *_: calls.append(1))
    quicken(model)
    assert [type(one) for one in model] == [QuickDropout, nn.Dropout, nn.AlphaDropout, nn.Linear]
    model(torch.ones(1, 2))
    assert calls == [1] and model[0].p == 0.2

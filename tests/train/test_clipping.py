from __future__ import annotations

import math

import pytest
import torch

from chainft.train.clipping import clip


@pytest.mark.parametrize("limit", [0.1, 1.0, 4.9999, 5.0, 5.0001, 100.0])
def test_gradients_and_norm_are_torchs_bit_by_bit(limit: float) -> None:
    torch.manual_seed(0)
    ours = [
        torch.nn.Parameter(torch.zeros(3, 4)),
        torch.nn.Parameter(torch.zeros(7)),
        torch.nn.Parameter(torch.zeros(2)),
    ]
    theirs = [torch.nn.Parameter(torch.zeros_like(one)) for one in ours]
    for one, other in zip(ours[:2], theirs[:2], strict=True):  # The third has no gradient.
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    scale = 5.0 / torch.nn.utils.get_total_norm([one.grad for one in ours[:2] if one.grad is not None])
    for one in (*ours[:2], *theirs[:2]):
        assert one.grad is not None
        one.grad *= scale
    expected = float(torch.nn.utils.clip_grad_norm_(theirs, limit))
    assert clip(ours, limit) == expected
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad)


def test_without_a_limit_nothing_is_clipped_and_without_gradients_the_norm_is_zero() -> None:
    one = torch.nn.Parameter(torch.zeros(2))
    assert clip([one], 1.0) == 0.0
    one.grad = torch.tensor([30.0, 40.0])
    assert clip([one], None) == 50.0 and one.grad.tolist() == [30.0, 40.0]


def test_what_is_not_a_number_is_told() -> None:
    one = torch.nn.Parameter(torch.zeros(2))
    one.grad = torch.tensor([math.nan, 1.0])
    assert math.isnan(clip([one], 1.0))

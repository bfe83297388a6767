"""Hidden states are alike where they differ by rounding alone."""

from __future__ import annotations

import math

import torch

from chainft.stages.rounding import alike


def test_a_large_entry_does_not_make_the_rounding_of_a_small_one_a_difference() -> None:
    expected = torch.tensor([[5000.0, 0.01], [1.0, 1.0]])
    assert alike(expected + torch.tensor([[0.02, 0.02], [5e-5, 5e-5]]), expected)


def test_each_token_counts_by_itself() -> None:
    expected = torch.tensor([[5000.0, 0.01], [1.0, 1.0]])
    assert not alike(expected + torch.tensor([[0.0, 0.0], [3e-4, 0.0]]), expected)
    assert not alike(torch.tensor([[1e-6, 0.0]]), torch.zeros(1, 2))


def test_nan_is_never_alike() -> None:
    nan = torch.tensor([[math.nan, 1.0]])
    assert not alike(nan, nan) and not alike(torch.ones(1, 2), nan)

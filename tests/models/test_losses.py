"""Loss sums against torch's own means and numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from chainft.models.losses import binary_cross_entropy_sum, cross_entropy_sum, token_cross_entropy_sum, weight_sum

LABELS = torch.tensor([[0, 2, -100], [1, -100, -100]])
WEIGHTS = torch.tensor([0.5, 2.0, 3.0])


def test_sum_by_hand() -> None:
    """Equal logits of C classes cost ln C each."""
    loss = token_cross_entropy_sum(torch.zeros(2, 3, 3), LABELS)
    assert float(loss) == pytest.approx(3 * math.log(3))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sum_over_weights_is_torchs_mean(weights: torch.Tensor | None, smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 3)
    total = token_cross_entropy_sum(logits, LABELS, label_smoothing=smoothing, class_weights=weights)
    mean = functional.cross_entropy(logits.flatten(0, 1), LABELS.flatten(), weight=weights, label_smoothing=smoothing)
    assert float(total) / weight_sum(LABELS, weights) == pytest.approx(float(mean), rel=1e-6)


def test_sum_of_parts_is_the_sum_of_the_whole() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, -100, 1])
    parts = cross_entropy_sum(logits[:2], labels[:2]) + cross_entropy_sum(logits[2:], labels[2:])
    assert float(parts) == pytest.approx(float(cross_entropy_sum(logits, labels)), rel=1e-6)


def test_nothing_but_ignored_places_is_zero_not_nan() -> None:
    """fault 13: a batch whose tokens are all masked."""
    ignored = torch.full((2, 3), -100)
    logits = torch.randn(2, 3, 4, requires_grad=True)
    loss = token_cross_entropy_sum(logits, ignored)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0.0 == weight_sum(ignored)
    assert logits.grad is not None
    assert not logits.grad.any()


def test_half_precision_is_summed_in_float32() -> None:
    loss = cross_entropy_sum(torch.zeros(5000, 7, dtype=torch.bfloat16), torch.zeros(5000, dtype=torch.long))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(5000 * math.log(7), rel=1e-5)


def test_binary_sum_by_hand() -> None:
    loss = binary_cross_entropy_sum(torch.zeros(2, 3), torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert float(loss) == pytest.approx(6 * math.log(2))


def test_binary_weights_count_by_class() -> None:
    loss = binary_cross_entropy_sum(torch.zeros(2, 3), torch.zeros(2, 3), class_weights=WEIGHTS)
    assert float(loss) == pytest.approx(2 * 5.5 * math.log(2))

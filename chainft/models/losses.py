"""Losses as sums over targets: the caller divides by the number of targets of the whole batch.

Letters: B rows, L tokens, C classes. All are computed in float32, whatever the model's arithmetic.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from chainft.models.fused_loss import IGNORED, DeferredLogits, linear_cross_entropy_sum


def token_cross_entropy_sum(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Sum over all tokens with a target; `logits` (B, L, C), `labels` (B, L), `class_weights` (C,).

    With weights, each target's loss counts by the weight of its class; divide by `weight_sum`. Smoothing is torch's:
    the target is `1 - label_smoothing` on the class plus `label_smoothing / C` on every class, each weighted.
    """
    return cross_entropy_sum(
        logits.flatten(0, -2), labels.flatten(), label_smoothing=label_smoothing, class_weights=class_weights
    )


def cross_entropy_sum(
    logits: Tensor | DeferredLogits,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Sum over rows; `logits` (B, C), `labels` (B,); rows labelled -100 add nothing, even where all are."""
    if isinstance(logits, DeferredLogits):
        if not label_smoothing and class_weights is None:
            return linear_cross_entropy_sum(logits, labels)
        logits = logits.tensor()
    return functional.cross_entropy(
        logits.float(),
        labels,
        weight=None if class_weights is None else class_weights.to(logits.device).float(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def binary_cross_entropy_sum(logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """Sum over all (row, class) decisions; `logits` and `targets` (B, C), targets in [0, 1], `class_weights` (C,)."""
    return functional.binary_cross_entropy_with_logits(
        logits.float(),
        targets.float(),
        weight=None if class_weights is None else class_weights.to(logits.device).float(),
        reduction="sum",
    )


def weight_sum(labels: Tensor, class_weights: Tensor | None = None) -> float:
    """What a sum over `labels` (any shape) is divided by: how many are not -100, or the sum of their weights."""
    there = labels != IGNORED
    if class_weights is None:
        return float(there.sum())
    return float(class_weights.to(labels.device).double()[labels[there]].sum())

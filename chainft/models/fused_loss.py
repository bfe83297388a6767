"""Cross-entropy over a vocabulary from hidden states, without ever having all logits.

A language model's logits are its largest tensor by far: a token has thousands of hidden values but tens of
thousands of logits, and training holds them several times. Here they are made for a few tokens at a time, with
their gradient at once; only the gradients of the hidden states and of the weight stay (as Hsu et al. 2024,
Liger kernels, and Wijmans et al. 2024, cut cross-entropy). Letters: N tokens, V words, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

IGNORED = -100
"""The target of a place that has none."""
CHUNK_LOGITS = 1 << 24
"""Logits that are made at a time: 64 MiB of float32; it only moves time and memory."""


@dataclass(frozen=True)
class DeferredLogits:
    """Logits that are not computed yet: `hidden @ weight.T + bias`."""

    hidden: Tensor
    """(..., D)."""
    weight: Tensor
    """(V, D)."""
    bias: Tensor | None = None
    """(V,)."""

    @property
    def shape(self) -> torch.Size:
        """(..., V)."""
        return torch.Size([*self.hidden.shape[:-1], self.weight.shape[0]])

    def __getitem__(self, chosen: Tensor) -> DeferredLogits:
        """Those of some tokens, chosen by a mask (...) or by numbers."""
        return DeferredLogits(self.hidden[chosen], self.weight, self.bias)

    def tensor(self) -> Tensor:
        """(..., V) the logits."""
        return functional.linear(self.hidden, self.weight, self.bias)


def linear_cross_entropy_sum(logits: DeferredLogits, labels: Tensor) -> Tensor:
    """The float32 sum of the cross-entropies of `logits` (N, V) and `labels` (N,); those labelled -100 add nothing."""
    kept = labels != IGNORED
    hidden, labels = logits.hidden[kept], labels[kept]
    weight, bias = logits.weight, logits.bias
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    found: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, labels)  # type: ignore[no-untyped-call]
    return found


class _LinearCrossEntropy(torch.autograd.Function):
    """() of hidden states (N, D), weight (V, D), bias (V,) or None, and labels (N,)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[:3]
        total = torch.zeros((), device=hidden.device)
        gradients = (
            torch.empty_like(hidden) if of_hidden else None,
            torch.zeros_like(weight, dtype=torch.float32) if of_weight else None,
            torch.zeros_like(bias, dtype=torch.float32) if bias is not None and of_bias else None,
        )
        size = max(1, CHUNK_LOGITS // weight.shape[0])
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), size):
                rows = slice(start, start + size)
                logits = functional.linear(hidden[rows], weight, bias).float()  # (n, V)
                total += functional.cross_entropy(logits, labels[rows], reduction="sum")
                if any(one is not None for one in gradients):
                    _add_gradients(logits, labels[rows], hidden[rows], weight, gradients, rows)
        kinds = (hidden.dtype, weight.dtype, weight.dtype)
        ctx.save_for_backward(*(None if g is None else g.to(kind) for g, kind in zip(gradients, kinds, strict=True)))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The loss is one number, so all gradients are those of the forward pass times its own."""
        (scale,) = gradients
        return (*(None if one is None else one * scale.to(one.dtype) for one in ctx.saved_tensors), None)


def _add_gradients(
    logits: Tensor,
    labels: Tensor,
    hidden: Tensor,
    weight: Tensor,
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
    rows: slice,
) -> None:
    """d loss / d logits = softmax(logits) - 1 at the label. `logits` are used up."""
    of_hidden, of_weight, of_bias = gradients
    slope = torch.softmax(logits, dim=-1)
    slope[torch.arange(len(labels), device=labels.device), labels] -= 1
    slope = slope.to(hidden.dtype)
    if of_hidden is not None:
        torch.mm(slope, weight, out=of_hidden[rows])
    if of_weight is not None and hidden.dtype == torch.float32:
        of_weight.addmm_(slope.T, hidden)
    elif of_weight is not None:
        of_weight += slope.T @ hidden  # A sum of many parts loses digits in bf16.
    if of_bias is not None:
        of_bias += slope.sum(dim=0)

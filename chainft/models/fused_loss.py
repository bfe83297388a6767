"""Cross-entropy over a vocabulary from hidden states, without ever having all logits.

A language model's logits are its largest tensor by far: a token has thousands of hidden values but tens of
thousands of logits, and training holds them several times. Here they are made for a few tokens at a time, with
their gradient at once; only the gradients of the hidden states and of the weight stay (as Hsu et al. 2024,
Liger kernels, and Wijmans et al. 2024, cut cross-entropy). Letters: N tokens, V words, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    dtype: torch.dtype | None = None
    """In which products are computed, under autocast; None: that of `hidden` and `weight`."""
    chunk: int = CHUNK_LOGITS
    """How many logits there are at most at a time."""

    @property
    def shape(self) -> torch.Size:
        """(..., V)."""
        return torch.Size([*self.hidden.shape[:-1], self.weight.shape[0]])

    def __getitem__(self, chosen: Tensor) -> DeferredLogits:
        """Those of some tokens, chosen by a mask over them or by their numbers. Raises TypeError for any other choice."""
        dims = self.hidden.dim() - 1
        is_choice = isinstance(chosen, Tensor) and not chosen.is_floating_point() and chosen.dim() <= dims
        if not is_choice or (chosen.dtype == torch.bool and chosen.shape != self.hidden.shape[: chosen.dim()]):
            raise TypeError(f"deferred logits of {tuple(self.hidden.shape[:-1])} tokens are chosen by tokens alone")
        return replace(self, hidden=self.hidden[chosen])

    def tensor(self) -> Tensor:
        """(..., V) the logits."""
        return functional.linear(*self.operands())

    def operands(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Hidden states, weight and bias in the type of the product."""
        if self.dtype is None:
            return self.hidden, self.weight, self.bias
        bias = None if self.bias is None else self.bias.to(self.dtype)
        return self.hidden.to(self.dtype), self.weight.to(self.dtype), bias


def linear_cross_entropy_sum(logits: DeferredLogits, labels: Tensor) -> Tensor:
    """The float32 sum of the cross-entropies of `logits` (N, V) and `labels` (N,); those labelled -100 add nothing."""
    kept = labels != IGNORED
    chosen = logits[kept]
    size = max(1, logits.chunk // logits.weight.shape[0])
    found: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        *chosen.operands(), labels[kept], size, torch.is_grad_enabled()
    )
    return found


class _LinearCrossEntropy(torch.autograd.Function):
    """() of hidden states (N, D), weight (V, D), bias (V,) or None, and labels (N,); `size` tokens at a time.

    Gradients are made where `trains`, which autograd does not tell. They are used up by the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, size: int, trains: bool
    ) -> Tensor:
        of_hidden, of_weight, of_bias = (trains and needed for needed in ctx.needs_input_grad[:3])
        total = torch.zeros((), device=hidden.device)
        for_hidden: list[Tensor] = []
        for_weight: Tensor | None = None
        for_bias: Tensor | None = None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), size):
                some, wanted = hidden[start : start + size], labels[start : start + size]
                logits = functional.linear(some, weight, bias).float()  # (n, V)
                total += functional.cross_entropy(logits, wanted, reduction="sum")
                if not (of_hidden or of_weight or of_bias):
                    continue
                slope = _slope(logits, wanted).to(hidden.dtype)
                del logits
                if of_hidden:
                    for_hidden.append(slope @ weight)
                if of_weight:  # In float32: a sum of many parts loses digits in bf16.
                    for_weight = _sum(for_weight, (slope.T @ some).float())
                if of_bias:
                    for_bias = _sum(for_bias, slope.float().sum(dim=0))
        ctx.save_for_backward(
            (torch.cat(for_hidden) if for_hidden else torch.zeros_like(hidden)) if of_hidden else None,
            _like(weight, for_weight) if of_weight else None,
            _like(bias, for_bias) if bias is not None and of_bias else None,
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The loss is one number, so all gradients are those of the forward pass times its own."""
        (scale,) = gradients
        found = (None if one is None else one.mul_(scale.to(one.dtype)) for one in ctx.saved_tensors)
        return (*found, None, None, None)


def _slope(logits: Tensor, labels: Tensor) -> Tensor:
    """(n, V) d loss / d logits = softmax(logits) - 1 at the label (n,)."""
    slope = torch.softmax(logits, dim=-1)
    slope[torch.arange(len(labels), device=labels.device), labels] -= 1
    return slope


def _sum(before: Tensor | None, more: Tensor) -> Tensor:
    return more if before is None else before.add_(more)


def _like(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient.to(parameter.dtype)

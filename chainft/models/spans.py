"""Stretches of tokens scored by two logits a token, that it begins one and that it ends one.

Devlin et al. 2019 (arXiv:1810.04805, section 4.2): the probability that a stretch begins at token i is the softmax of the
start logits at i, and likewise its end; both are learned and decoded here over the tokens that can be part of an answer,
and over the first one, which stands for none. Letters: B windows, L tokens, W most tokens of a stretch, K stretches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Spans(NamedTuple):
    """The best stretches of each window, best first."""

    scores: Tensor
    """(B, K) log-probability of start and end; -inf where a window has fewer stretches."""
    starts: Tensor
    """(B, K) the first token."""
    ends: Tensor
    """(B, K) the last token."""
    null: Tensor
    """(B,) log-probability of the first token as start and end: that the window holds no answer."""


def log_probabilities(logits: Tensor, candidates: Tensor) -> Tensor:
    """(B, L) log-softmax of (B, L) logits over the candidates (B, L); -inf elsewhere. In float32."""
    return logits.float().masked_fill(~candidates, -torch.inf).log_softmax(-1)


def span_losses(start_logits: Tensor, end_logits: Tensor, candidates: Tensor, labels: Tensor) -> Tensor:
    """(B,) the mean of the cross-entropies of start and end; `labels` (B, 2) are their places."""
    parts = [
        functional.nll_loss(log_probabilities(logits, candidates), labels[:, side], reduction="none")
        for side, logits in enumerate((start_logits, end_logits))
    ]
    return torch.stack(parts).mean(0)


def best_spans(
    logits: tuple[Tensor, Tensor], candidates: Tensor, edges: tuple[Tensor, Tensor], *, longest: int, most: int
) -> Spans:
    """The `most` best stretches of at most `longest` tokens of each window: of all there are, exactly.

    `logits`: of start and end, (B, L) each; `edges`: where a stretch may begin and end, (B, L) each.
    """
    start, end = (log_probabilities(side, candidates) for side in logits)
    null = start[:, 0] + end[:, 0]
    start, end = (side.masked_fill(~edge, -torch.inf) for side, edge in zip((start, end), edges, strict=True))
    ends = functional.pad(end, (0, longest - 1), value=-torch.inf).unfold(1, longest, 1)  # (B, L, W)
    joint = (start[:, :, None] + ends).flatten(1)  # (B, L * W)
    scores, places = joint.topk(min(most, joint.shape[1]))
    starts = places // longest
    return Spans(scores, starts, starts + places % longest, null)

"""A linear-chain CRF over the words of a sentence: how well each tag goes with a word and with the tag before it.

score(y) = start[y_1] + sum_t emission[t, y_t] + sum_t transitions[y_t-1, y_t] + end[y_n], and p(y) is proportional to
exp(score(y)) (Lafferty, McCallum & Pereira 2001; for taggers on a neural encoder, Lample et al. 2016, arXiv:1603.01360,
section 2.2). Steps that the tag scheme forbids have the score `IMPOSSIBLE`, so that their probability is 0 in float32.

Letters: B sequences, W words of the longest, C tags. Masks are true for words and have them on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chainft.models.task_modules import TaskModule

IMPOSSIBLE = -1e4
"""Score of what is forbidden: exp of it is 0, and unlike -inf it leaves no gradient that is not a number."""
UNKNOWN = -1
"""Of `before`: the sequence goes on with a word whose tag nobody knows."""


@dataclass(frozen=True)
class Steps:
    """The scores of a batch of sequences that do not come from words."""

    first: Tensor
    """(B, C) of the first tag."""
    between: Tensor
    """(C, C) from the tag of a row to the tag of a column."""
    last: Tensor
    """(B, C) of the last tag."""


class LinearChainCrf(TaskModule):
    """Scores of tags at the start and the end of a sentence and of steps between them; all begin at 0."""

    def __init__(self, legal: tuple[Tensor, Tensor, Tensor], *, lr: float | None = None) -> None:
        """`legal`: which tags may be first (C,), follow another (C, C; from row to column), and be last (C,)."""
        super().__init__()
        self.lr = lr
        names = ("start", "transitions", "end")
        for name, mask in zip(names, legal, strict=True):
            self.register_parameter(name, nn.Parameter(torch.zeros(mask.shape)))
            self.register_buffer(f"legal_{name}", mask.clone(), persistent=False)

    def steps(self, before: Tensor, goes_on: Tensor) -> Steps:
        """For parts of sentences. `before` (B,): 0 at the start of a sentence, else 1 + the id of the tag before the part, or
        `UNKNOWN`; `goes_on` (B,): whether words follow the part. What follows is not looked at."""
        start, between, end = (self._scores(name) for name in ("start", "transitions", "end"))
        of_tag = between[(before - 1).clamp(min=0)]  # (B, C)
        first = torch.where((before == 0)[:, None], start, of_tag)
        first = torch.where((before == UNKNOWN)[:, None], torch.zeros_like(first), first)
        return Steps(first, between, torch.where(goes_on.bool()[:, None], torch.zeros_like(end), end))

    def reorder(self, order: Sequence[int]) -> None:
        places = list(order)
        with torch.no_grad():
            self.get_parameter("start").copy_(self.get_parameter("start")[places])
            self.get_parameter("end").copy_(self.get_parameter("end")[places])
            self.get_parameter("transitions").copy_(self.get_parameter("transitions")[places][:, places])

    def _scores(self, name: str) -> Tensor:
        legal = self.get_buffer(f"legal_{name}")
        return self.get_parameter(name).float().masked_fill(~legal, IMPOSSIBLE)


def legal_steps_only(legal: tuple[Tensor, Tensor, Tensor], like: Tensor) -> Steps:
    """Steps of whole sentences that tell legal from forbidden ones and nothing else; `like` (B, W, C)."""
    start, between, end = (
        like.new_zeros(mask.shape, dtype=torch.float32).masked_fill(~mask.to(like.device), IMPOSSIBLE)
        for mask in legal
    )
    return Steps(start.expand(len(like), -1), between, end.expand(len(like), -1))


def negative_log_likelihood(emissions: Tensor, mask: Tensor, steps: Steps, tags: Tensor) -> Tensor:
    """(B,) -log p(tags). `emissions` (B, W, C); `tags` (B, W), negative where unknown: there all tags count together."""
    emissions = emissions.float()
    if bool((tags >= 0)[mask].all()):
        gold = path_score(emissions, mask, steps, tags)
    else:
        known = nn.functional.one_hot(tags.clamp(min=0), emissions.shape[2]).bool() | (tags < 0)[..., None]
        gold = log_partition(emissions.masked_fill(~known, IMPOSSIBLE), mask, steps)
    return log_partition(emissions, mask, steps) - gold


def path_score(emissions: Tensor, mask: Tensor, steps: Steps, tags: Tensor) -> Tensor:
    """(B,) score of one sequence of tags each."""
    tags = tags.masked_fill(~mask, 0)
    words = emissions.gather(2, tags[..., None])[..., 0]  # (B, W)
    between = steps.between[tags[:, :-1], tags[:, 1:]]  # (B, W - 1)
    last = tags.gather(1, _last(mask))  # (B, 1)
    edges = steps.first.gather(1, tags[:, :1]) + steps.last.gather(1, last)  # (B, 1)
    return edges[:, 0] + (words * mask).sum(1) + (between * mask[:, 1:]).sum(1)


def log_partition(emissions: Tensor, mask: Tensor, steps: Steps) -> Tensor:
    """(B,) log of the sum of exp(score) over all sequences of tags, by the forward algorithm in float32."""
    forward = _forward(emissions.float(), mask, steps)[-1]
    return (forward + steps.last).logsumexp(1)


def marginals(emissions: Tensor, mask: Tensor, steps: Steps) -> Tensor:
    """(B, W, C) probability of each tag at each word, by the forward-backward algorithm."""
    emissions = emissions.float()
    forward = _forward(emissions, mask, steps)
    backward = [steps.last]
    for word in range(emissions.shape[1] - 1, 0, -1):
        following = (steps.between + (emissions[:, word] + backward[-1])[:, None]).logsumexp(2)  # (B, C)
        backward.append(torch.where(mask[:, word, None], following, backward[-1]))
    return (torch.stack(forward, 1) + torch.stack(backward[::-1], 1)).softmax(-1)


def viterbi(emissions: Tensor, mask: Tensor, steps: Steps) -> Tensor:
    """(B, W) the tags of the best sequence each; of equally good ones, the tags that come first. 0 beyond the mask."""
    emissions = emissions.float()
    best = steps.first + emissions[:, 0]
    stay = torch.arange(best.shape[1], device=best.device).expand_as(best)
    pointers = []
    for word in range(1, emissions.shape[1]):
        scores, origin = (best[:, :, None] + steps.between).max(1)  # (B, C)
        is_word = mask[:, word, None]
        best = torch.where(is_word, scores + emissions[:, word], best)
        pointers.append(torch.where(is_word, origin, stay))
    tags = [(best + steps.last).argmax(1, keepdim=True)]
    for origin in reversed(pointers):
        tags.append(origin.gather(1, tags[-1]))
    return torch.cat(tags[::-1], 1).masked_fill(~mask, 0)


def _forward(emissions: Tensor, mask: Tensor, steps: Steps) -> list[Tensor]:
    """For each word (B, C): log of the sum over all tags before it; beyond the mask, that of the last word."""
    found = [steps.first + emissions[:, 0]]
    for word in range(1, emissions.shape[1]):
        reached = (found[-1][:, :, None] + steps.between).logsumexp(1) + emissions[:, word]
        found.append(torch.where(mask[:, word, None], reached, found[-1]))
    return found


def _last(mask: Tensor) -> Tensor:
    """(B, 1) place of the last word."""
    return mask.sum(1, keepdim=True) - 1

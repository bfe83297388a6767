"""Tags of a sentence taken together: legal sequences only, by a CRF where the task has one.

A sentence is one sequence, of its words at their first sub-words. Where it is cut into windows, training takes the
words that each window owns as a sequence of its own, given the gold tag before them, and prediction joins the scores of
all windows before it looks for the best sequence, which so is that of the whole sentence.
Letters: B windows, L tokens, W words, C tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chainft.text.schemes import legal_steps

if TYPE_CHECKING:
    from torch import Tensor

    from chainft.data.batching import Batch
    from chainft.models.crf import LinearChainCrf, Steps

Solved = tuple[np.ndarray, np.ndarray]
"""Tag ids and their probabilities, (words,) each."""


def new_crf(names: Sequence[str], lr: float | None) -> LinearChainCrf:
    """A CRF over IOB2 tags."""
    from chainft.models.crf import LinearChainCrf

    return LinearChainCrf(_legal(names), lr=lr)


def crf_loss(crf: LinearChainCrf, logits: Tensor, batch: Batch) -> Tensor:
    """Sum of -log p(tags of the owned words) over windows; logits (B, L, C). Words whose tag the model does not have may
    have any. Given the tag before a window, it says nothing of what follows it."""
    from chainft.models.crf import negative_log_likelihood

    emissions, mask, places = _words(logits, batch.targets["word_ids"] >= 0)
    tags = batch.targets["labels"].gather(1, places)  # (B, W)
    return negative_log_likelihood(emissions, mask, _steps(crf, batch), tags).sum()


def solve_batch(names: Sequence[str], crf: LinearChainCrf | None, logits: Tensor, batch: Batch) -> list[Any]:
    """For each window that is a whole sentence its best legal tags; for others the scores (owned words, C), which
    `solve_windows` joins."""
    emissions, mask, _ = _words(_scores(crf, logits), batch.targets["word_ids"] >= 0)
    tags, probabilities = _best(names, crf, emissions, mask)
    counts = mask.sum(1).tolist()
    is_part = ((batch.targets["before"] != 0) | (batch.targets["goes_on"] != 0))[:, 0].tolist()
    return [
        scores[:count] if part else (ids[:count], values[:count])
        for scores, ids, values, count, part in zip(
            emissions.cpu().numpy(), tags.cpu().numpy(), probabilities.cpu().numpy(), counts, is_part, strict=True
        )
    ]


def solve_windows(names: Sequence[str], crf: LinearChainCrf | None, windows: Sequence[np.ndarray]) -> list[Solved]:
    """The best legal tags of one sentence, window by window, from the scores (owned words, C) of all its windows."""
    import torch

    emissions = torch.from_numpy(np.concatenate(windows))[None]  # (1, W, C)
    if crf is not None:
        emissions = emissions.to(crf.get_parameter("start").device)
    with torch.inference_mode():
        mask = torch.ones(emissions.shape[:2], dtype=torch.bool, device=emissions.device)
        tags, values = (one[0].cpu().numpy() for one in _best(names, crf, emissions, mask))
    ends = np.cumsum([len(window) for window in windows])[:-1]
    return list(zip(np.split(tags, ends), np.split(values, ends), strict=True))


def _best(names: Sequence[str], crf: LinearChainCrf | None, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(B, W) ids and probabilities of the best legal tags of whole sentences."""
    from chainft.models.crf import legal_steps_only, marginals, viterbi

    if crf is None:
        steps = legal_steps_only(_legal(names), emissions)
        tags = viterbi(emissions, mask, steps)
        return tags, emissions.gather(2, tags[..., None])[..., 0].exp()
    none = mask.sum(1) * 0  # (B,) nothing before, nothing after
    steps = crf.steps(none, none)
    tags = viterbi(emissions, mask, steps)
    return tags, marginals(emissions, mask, steps).gather(2, tags[..., None])[..., 0]


def _scores(crf: LinearChainCrf | None, logits: Tensor) -> Tensor:
    """What a sequence sums over its words: a CRF takes logits as they are, without one they are log probabilities."""
    return logits.float() if crf is not None else logits.float().log_softmax(-1)


def _steps(crf: LinearChainCrf, batch: Batch) -> Steps:
    return crf.steps(batch.targets["before"][:, 0], batch.targets["goes_on"][:, 0])


def _words(logits: Tensor, owned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of owned words moved together: (B, W, C) logits, (B, W) which words there are, (B, W) their places."""
    import torch

    counts = owned.sum(1)
    width = max(1, int(counts.max()))
    places = (~owned).long().argsort(dim=1, stable=True)[:, :width]
    mask = torch.arange(width, device=owned.device)[None] < counts[:, None]
    return logits.gather(1, places[..., None].expand(-1, -1, logits.shape[2])), mask, places


def _legal(names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    first, between, last = legal_steps(names, "iob2")
    return torch.tensor(first), torch.tensor(between), torch.tensor(last)

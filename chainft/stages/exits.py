"""Early exit: rows of a batch leave at the first auxiliary head that is sure of all their answers.

Each row leaves by itself, so a text gets the same answer whatever it is batched with. B rows, L tokens, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Keep = Callable[[Tensor], Tensor]


class EarlyExit:
    """Keeps account of which rows left where, for one batch."""

    def __init__(self, confidence: float, mask: Tensor, *, multi_label: bool) -> None:
        """`mask` (B, L): which tokens there are."""
        self._confidence = confidence
        self._multi_label = multi_label
        self._mask = mask
        self._rows = torch.arange(len(mask), device=mask.device)
        self._left: list[tuple[Tensor, Tensor]] = []

    @property
    def is_over(self) -> bool:
        """No row is left."""
        return not len(self._rows)

    def leave(self, logits: Tensor) -> Keep:
        """Let sure rows go with these logits, (B, C) or (B, L, C); returns what keeps the other rows of any tensor."""
        unsure = sureness(logits, self._mask, multi_label=self._multi_label) < self._confidence  # (B,)
        self._left.append((self._rows[~unsure], logits[~unsure]))
        self._rows, self._mask = self._rows[unsure], self._mask[unsure]
        return lambda tensor: tensor[unsure]

    def merged(self, logits: Tensor | None) -> Tensor:
        """The logits of all rows in their old order; `logits` are of those that stayed to the end."""
        parts = [*self._left, *([(self._rows, logits)] if logits is not None else [])]
        rows = torch.cat([rows for rows, _ in parts])
        return torch.cat([values for _, values in parts])[rows.argsort()]


def sureness(logits: Tensor, mask: Tensor, *, multi_label: bool) -> Tensor:
    """(B,) the least probability of an answer in each row: of the likeliest class, at every token that is there.

    With `multi_label`, each class is a question with the answers yes and no.
    """
    logits = logits.float()
    if multi_label:
        yes = logits.sigmoid()
        answers = torch.maximum(yes, 1 - yes).amin(-1)
    else:
        answers = logits.softmax(-1).amax(-1)
    if answers.ndim == 1:
        return answers
    return answers.masked_fill(mask == 0, 1.0).amin(-1)

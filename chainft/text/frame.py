"""The special tokens that a tokenizer puts around one sequence or between two, found by trying.

Windows are cut from sub-words that are already there, so the special tokens are laid around them here instead of
tokenising again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from chainft.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBES = ("a", "the", "1", ".")


@dataclass(frozen=True)
class Piece:
    """Token ids and their segment number."""

    ids: tuple[int, ...]
    segment: int


@dataclass(frozen=True)
class Frame:
    """What stands before, between and after the sequences."""

    before: Piece
    between: Piece | None
    """None: a frame for one sequence."""
    after: Piece
    segments: tuple[int, ...]
    """Segment number (`token_type_ids`) of each sequence."""
    has_segments: bool
    """Whether the model takes `token_type_ids` that are not all 0."""

    @property
    def num_special(self) -> int:
        """Special tokens in all."""
        return len(self.before.ids) + len(self.after.ids) + (len(self.between.ids) if self.between else 0)

    def around(self, *sequences: np.ndarray) -> dict[str, np.ndarray]:
        """`input_ids`, and `token_type_ids` where the model takes them, of one framed sequence or pair."""
        middle = () if self.between is None else (self.between,)
        parts: list[tuple[Sequence[int] | np.ndarray, int]] = [(self.before.ids, self.before.segment)]
        for number, sequence in enumerate(sequences):
            parts.append((sequence, self.segments[number]))
            parts += [(piece.ids, piece.segment) for piece in middle[number : number + 1]]
        parts.append((self.after.ids, self.after.segment))
        arrays = {"input_ids": np.concatenate([np.asarray(ids, np.int32) for ids, _ in parts])}
        if self.has_segments:
            arrays["token_type_ids"] = np.concatenate([np.full(len(ids), segment, np.int32) for ids, segment in parts])
        return arrays


def find_frame(tokenizer: PreTrainedTokenizerBase, *, pair: bool = False) -> Frame:
    """The frame of one sequence or of a pair. Raises ModelError for a tokenizer that keeps nothing of any probe."""
    for probe in _PROBES:
        encoded = tokenizer(
            probe,
            probe if pair else None,
            return_special_tokens_mask=True,
            return_token_type_ids=True,
            truncation=False,
            padding=False,
            verbose=False,
        )
        tokens = list(zip(encoded["input_ids"], encoded["token_type_ids"], encoded.sequence_ids(), strict=True))
        runs = [(which, list(run)) for which, run in groupby(tokens, key=lambda token: token[2])]
        if {which for which, _ in runs} >= ({0, 1} if pair else {0}):
            return _frame(runs, takes_segments="token_type_ids" in tokenizer.model_input_names)
    raise ModelError(
        f"the tokenizer {type(tokenizer).__name__} makes no tokens of ordinary text",
        slug="broken-tokenizer",
        key="model.tokenizer",
    )


Token = tuple[int, int, int | None]
"""Id, segment, and which sequence it belongs to (None: special)."""


def _frame(runs: list[tuple[int | None, list[Token]]], *, takes_segments: bool) -> Frame:
    sequences = [place for place, (which, _) in enumerate(runs) if which is not None]
    first, last = sequences[0], sequences[-1]
    between = _piece(runs[first + 1 : last]) if last > first else None
    segments = tuple(runs[place][1][0][1] for place in sequences)
    any_segment = any(segment for _, tokens in runs for _, segment, _ in tokens)
    return Frame(
        _piece(runs[:first]), between, _piece(runs[last + 1 :]), segments, has_segments=takes_segments and any_segment
    )


def _piece(runs: list[tuple[int | None, list[Token]]]) -> Piece:
    tokens = [token for _, several in runs for token in several]
    return Piece(tuple(int(token[0]) for token in tokens), tokens[0][1] if tokens else 0)

"""How the words of a sentence become the windows that the ner task learns from and answers for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chainft.errors import ConfigError
from chainft.tasks.base import Arrays
from chainft.text.align import SubWords
from chainft.text.context import context_room
from chainft.text.frame import Frame
from chainft.text.windows import Window, cut_windows

DEFAULT_OVERLAP = 64
DEFAULT_CONTEXT = 64
"""Tokens of context a side in FLERT (Schweter & Akbik 2020, section 3)."""
IGNORED = -100
UNKNOWN_BEFORE = -1


@dataclass(frozen=True)
class Layout:
    """What fits around and into a window."""

    frame: Frame
    capacity: int
    """Tokens beside the special ones."""
    overlap: int
    max_context: int
    as_sequences: bool
    """Whether a window also says what of its sentence stands before and after its own words."""

    def rows(self, words: SubWords, own: range, tags: np.ndarray | None) -> Iterator[Arrays]:
        """Windows with at least one word that they own. `own`: the words of the sentence, the others are context;
        `tags`: (own words,) their ids, -100 for one that the model does not have."""
        lengths = words.lengths[own.start : own.stop]
        seen = np.flatnonzero(lengths > 0)
        for window in self._windows(words, own):
            begin, end = words.first[own.start + window.start], words.first[own.start + window.end]
            owned = seen[(seen >= window.own_start) & (seen < window.own_end)]
            if not len(owned):
                continue
            arrays = self.frame.around(words.ids[begin:end])
            places = len(self.frame.before.ids) + words.first[own.start + owned] - begin
            arrays["word_ids"] = _at(places, owned, len(arrays["input_ids"]), -1)
            if tags is not None:
                arrays["labels"] = _at(places, tags[owned], len(arrays["input_ids"]), IGNORED)
            if self.as_sequences:
                arrays["before"] = np.array([_before(seen[seen < owned[0]], tags)], np.int32)
                arrays["goes_on"] = np.array([seen[-1] > owned[-1]], np.int32)
            yield arrays

    def _windows(self, words: SubWords, own: range) -> Sequence[Window]:
        """Of a sentence that fits, one window with its context, whose words have numbers below 0 and beyond the last."""
        lengths = words.lengths[own.start : own.stop]
        found = cut_windows(lengths, self.capacity, overlap=self.overlap)
        if len(found) > 1 or len(own) == words.num_words:
            return found
        room = self.capacity - int(lengths.sum())
        begin, end = context_room(words.lengths, own.start, own.stop, room=room, most=self.max_context)
        return [Window(begin - own.start, end - own.start, 0, len(own))]


def checked_overlap(overlap: int | None, capacity: int, max_length: int) -> int:
    """Tokens that windows share. Raises ConfigError for an `overlap` that fills a window."""
    if overlap is None:
        return min(DEFAULT_OVERLAP, capacity // 4)
    if overlap >= capacity:
        raise ConfigError(
            f"task.overlap={overlap} is not less than the {capacity} tokens that a window holds "
            f"beside special tokens (the most is {max_length} in all)",
            slug="out-of-range",
            key="task.overlap",
            help=f"give at most {capacity // 2}, or raise model.max_length",
        )
    return overlap


def _before(words: np.ndarray, tags: np.ndarray | None) -> int:
    """0 where no word stands before a window's own, else 1 + the tag of the last one, or `UNKNOWN_BEFORE`."""
    if not len(words):
        return 0
    is_known = tags is not None and tags[words[-1]] != IGNORED
    return int(tags[words[-1]]) + 1 if is_known and tags is not None else UNKNOWN_BEFORE


def _at(places: np.ndarray, values: np.ndarray, length: int, rest: int) -> np.ndarray:
    """(length,) int32 with `values` at `places` and `rest` elsewhere."""
    array = np.full(length, rest, np.int32)
    array[places] = values
    return array

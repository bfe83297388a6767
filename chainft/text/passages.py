"""A question with pieces of a context: over-long contexts become windows that overlap, each with the whole question.

Beside its tokens a window holds where each token of the context stands in it (characters), and what the token may be: see
`Role`. Letters: T tokens of a context, L tokens of a window.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntFlag
from typing import TYPE_CHECKING, Literal

import numpy as np

from chainft.errors import ConfigError, DataError
from chainft.text.answers import Answer
from chainft.text.frame import Frame, find_frame
from chainft.text.scripts import joins

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Overflow = Literal["window", "truncate", "error"]
Arrays = dict[str, np.ndarray]
NULL = 0
"""The place in a window to which a question without an answer points: its first token ([CLS] of BERT)."""
LEAST_ROOM = 4
"""A context gets at least one in so many of the tokens of a window; a question that leaves less is refused."""


class Role(IntFlag):
    """What a token may be in an answer."""

    CANDIDATE = 1
    """Has a share of the probability: tokens of the context, and the first of the window."""
    START = 2
    """An answer may begin with it: it begins a word."""
    END = 4
    """An answer may end with it: it ends a word."""


_CANDIDATE, _START, _END = (int(role) for role in Role)  # Operators of plain numbers are ten times as fast.


@dataclass(frozen=True)
class Context:
    """The tokens of a context."""

    ids: np.ndarray
    """(T,) int32."""
    starts: np.ndarray
    """(T,) the first character of each, without white space; equal to `ends` where there is nothing else."""
    ends: np.ndarray
    """(T,) the character after the last, marks that follow a letter taken in."""
    roles: np.ndarray
    """(T,) of `Role`."""

    def span(self, answer: Answer) -> tuple[int, int] | None:
        """The first and the last token of an answer; None for characters of which the tokenizer makes nothing."""
        inside = np.flatnonzero((self.ends > answer.start) & (self.starts < answer.end))
        return (int(inside[0]), int(inside[-1])) if len(inside) else None


@dataclass(frozen=True)
class Window:
    """Tokens `[start, end)` of a context."""

    start: int
    end: int

    def holds(self, span: tuple[int, int] | None) -> bool:
        """Whether all of a span is in it."""
        return span is not None and self.start <= span[0] and span[1] < self.end


@dataclass
class Passages:
    """Tokenises questions and contexts for a model that takes `limit` tokens."""

    tokenizer: PreTrainedTokenizerBase
    limit: int
    overflow: Overflow
    overlap: float
    """What two windows share: tokens (int), or a share of the room for the context (float)."""
    frame: Frame
    _last: tuple[str, Context] | None = field(default=None, repr=False)
    """Questions about one context mostly stand together."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, limit: int, *, overflow: Overflow, overlap: float) -> Passages:
        """Raises ConfigError for an `overlap` of more than half of a window."""
        frame = find_frame(tokenizer, pair=True)
        room = limit - frame.num_special
        if overlap > (0.5 if isinstance(overlap, float) else room // 2):
            raise ConfigError(
                f"task.window_overlap = {overlap} is more than half of a window, which holds {room} tokens of question "
                "and context",
                slug="out-of-range",
                key="task.window_overlap",
                help=f"give at most {room // 2} or 0.5, or raise model.max_length",
            )
        return cls(tokenizer, limit, overflow, overlap, frame)

    def context(self, text: str) -> Context:
        """The tokens of a context."""
        if self._last is None or self._last[0] != text:
            self._last = (text, _context(self.tokenizer, text))
        return self._last[1]

    def question(self, text: str) -> np.ndarray:
        """Ids of the tokens of a question."""
        ids = self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        return np.array(ids, np.int32)

    def windows(self, question: np.ndarray, context: Context, where: str) -> list[Window]:
        """What each window shows of the context, from its beginning on.

        Raises DataError at `where` for a question that leaves too little room, and with `overflow: error` for a context
        that does not fit.
        """
        count, room = len(context.ids), self.limit - self.frame.num_special - len(question)
        if count <= room:
            return [Window(0, count)]
        if room < max(1, self.limit // LEAST_ROOM):
            raise self._long_question(len(question), where)
        if self.overflow == "error":
            raise self._long_context(len(question), count, where)
        if self.overflow == "truncate":
            return [Window(0, room)]
        overlap = int(self.overlap * room) if isinstance(self.overlap, float) else int(self.overlap)
        stride = room - min(overlap, room // 2)
        starts = [*range(0, count - room, stride), count - room]
        return [Window(start, start + room) for start in starts]

    def feature(self, question: np.ndarray, context: Context, window: Window) -> tuple[Arrays, int]:
        """The columns of a window, (L,) each, and where in it the context begins."""
        here = slice(window.start, window.end)
        arrays = self.frame.around(question, context.ids[here])
        length, size = len(arrays["input_ids"]), window.end - window.start
        begin = length - len(self.frame.after.ids) - size
        place = slice(begin, begin + size)
        for name, values, rest in (
            ("roles", _usable(context.roles[here]), 0),
            ("char_starts", context.starts[here], -1),
            ("char_ends", context.ends[here], -1),
        ):
            arrays[name] = np.full(length, rest, np.int32)
            arrays[name][place] = values
        arrays["roles"][NULL] |= _CANDIDATE
        return arrays, begin

    def num_tokens(self, question: str, context: str) -> int:
        """Of both, uncut, with special tokens."""
        return len(self.question(question)) + len(self.context(context).ids) + self.frame.num_special

    def _long_question(self, num_tokens: int, where: str) -> DataError:
        return DataError(
            f"the question has {num_tokens} tokens, which leaves less than 1/{LEAST_ROOM} of {self.limit} for its context",
            slug="too-long",
            where=where,
            help="shorten the question, raise model.max_length, or leave the row out by data.on_error=skip",
        )

    def _long_context(self, question: int, context: int, where: str) -> DataError:
        return DataError(
            f"question and context have {question} and {context} tokens, the most is {self.limit} with "
            f"{self.frame.num_special} special ones",
            slug="too-long",
            where=where,
            help="raise model.max_length, or set task.overflow=window to read it in parts",
        )


def _context(tokenizer: PreTrainedTokenizerBase, text: str) -> Context:
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, padding=False, verbose=False
    )
    places = [_stripped(text, *place) for place in encoded["offset_mapping"]]
    roles = [_role(text, *place) for place in places]
    starts, ends = (np.array([place[side] for place in places], np.int32) for side in (0, 1))
    return Context(np.array(encoded["input_ids"], np.int32), starts, ends, np.array(roles, np.int32))


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    while start < end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1  # Normalisers drop marks, and byte-level tokens divide them.
    return start, end


def _role(text: str, start: int, end: int) -> int:
    role = _CANDIDATE
    if start < end and not joins(text, start):
        role |= _START
    if start < end and not joins(text, end):
        role |= _END
    return role


def _usable(roles: np.ndarray) -> np.ndarray:
    """The roles of a window's context; where no word begins or ends in it, any token may do so."""
    usable = roles.copy()
    for role in (_START, _END):
        if not (roles & role).any():
            usable |= role
    return usable


@dataclass(frozen=True)
class Target:
    """What a window has to say, and how much that counts."""

    start: int
    """Place in the window of the first token of the answer, or `NULL`."""
    end: int
    """Place of the last one."""
    weight: float


def targets(spans: Sequence[tuple[int, int] | None], windows: Sequence[Window], begins: Sequence[int]) -> list[Target]:
    """For each window the first of `spans` (of the answers) that it holds wholly, else that it holds none.

    Their weights sum to 1: where some windows hold the answer and some do not, each kind shares one half, so that
    neither drowns in long contexts. An answer that no window holds teaches nothing: all weights are 0.
    `begins`: where in each window the context begins.
    """
    held = [next((span for span in spans if span is not None and one.holds(span)), None) for one in windows]
    holding = sum(span is not None for span in held)
    if spans and not holding:
        return [Target(NULL, NULL, 0.0)] * len(windows)
    kinds = 1 if holding in (0, len(windows)) else 2
    found = []
    for span, window, begin in zip(held, windows, begins, strict=True):
        weight = 1 / kinds / (len(windows) - holding if span is None else holding)
        shift = begin - window.start
        found.append(Target(NULL, NULL, weight) if span is None else Target(span[0] + shift, span[1] + shift, weight))
    return found

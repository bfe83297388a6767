"""Which slots of a meaning a text says, which it leaves out, and what it says beside.

A value is said where the text has one of its phrasings or, without a table for it, the value itself, word by word;
case, accents, hyphens and punctuation do not count. A match inside of a longer one does not count (`Indian` in
`Raja Indian Cuisine`). Of slots whose table has both yes and no, a phrasing of yes with a word of negation among the
four before it says no. Yes and no without a table cannot be judged, and nor can a value without a letter or digit.

Redundant is what the table knows of a slot, said of a value that the meaning does not give it. Values without a table
are open (names): a text that makes one up is not noticed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chainft.text.meanings import Meaning, read_meaning

_TOKEN = re.compile(r"[^\W_]+|[£$€]")
_MARKED = re.compile(r"[^\W_]+|[£$€]|[.,;:!?](?=\s|$)")
_MARK = "|"
"""Stands for punctuation, which a gap does not cross."""
_NEGATIONS = frozenset(
    ("not", "no", "non", "never", "isn", "t", "isnt", "aren", "doesn", "don", "nor", "without", "unlike")
)
_REACH = 4
"""Words before a phrasing among which a negation is looked for."""
_YES_NO = frozenset(("yes", "no", "true", "false"))
_GAP = r"(?: [^ |]+){0,3}"
_BLANK = r"(?: \|)? "


@dataclass(frozen=True)
class Judged:
    """The slots of one meaning in one text, as `slot[value]`."""

    said: tuple[str, ...]
    missing: tuple[str, ...]
    redundant: tuple[str, ...]
    """`slot: phrasing`; a slot at most once."""
    unjudged: tuple[str, ...]

    @property
    def errors(self) -> int:
        return len(self.missing) + len(self.redundant)


@dataclass(frozen=True)
class _Match:
    start: int
    end: int
    slot: str
    value: str
    text: str
    copied: bool
    """Of a value that stands there word by word, not of a phrasing."""

    def covers(self, other: _Match) -> bool:
        """Whether the other is but a part of this; a phrasing of another slot may share its words."""
        if self.slot != other.slot and not self.copied:
            return False
        return self.start <= other.start and other.end <= self.end and self.end - self.start > other.end - other.start


@dataclass(frozen=True)
class _Phrasing:
    """A phrasing, with a quick test that leaves out most texts."""

    start: str
    """Words that a text must have, up to the first gap, with a blank on either side."""
    pattern: re.Pattern[str]

    @classmethod
    def of(cls, phrase: str) -> _Phrasing:
        parts = [found for part in phrase.split("...") if (found := normal(part))]
        spelt = f"{_GAP} ".join(_BLANK.join(map(re.escape, part.split())) for part in parts)
        return cls(f" {parts[0] if parts else ''} ", re.compile(rf"(?<![^ ]){spelt}(?![^ ])"))


class Lexicon:
    """Phrasings of values, ready to be looked for."""

    def __init__(self, phrasings: Mapping[str, Iterable[str]]) -> None:
        """`phrasings`: `slot[value]` -> texts. Raises MeaningError for another key."""
        self._table: dict[tuple[str, str], list[_Phrasing]] = {}
        self._first: dict[tuple[str, str], str] = {}
        for key, texts in phrasings.items():
            for slot, value in read_meaning(key):
                self._first[slot_key(slot), normal(value)] = next(iter(texts), value)
                self._table[slot_key(slot), normal(value)] = [_Phrasing.of(text) for text in texts]
        values: dict[str, set[str]] = {}
        for slot, value in self._table:
            values.setdefault(slot, set()).add(value)
        self._yes_no = {slot for slot, found in values.items() if {"yes", "no"} <= found}

    def wording(self, slot: str, value: str) -> str:
        """The value as it is, but yes and no by their first phrasing, or with the name of the slot."""
        key = (slot_key(slot), normal(value))
        return value if key[1] not in _YES_NO else self._first.get(key, f"{slot} {value}")

    def judge(self, meaning: Meaning, text: str) -> Judged:
        """What the text says of the meaning."""
        given = {(slot_key(slot), normal(value)) for slot, value in meaning}
        found = self._matches(given, text)
        said_of = {(match.slot, match.value) for match in found}
        said: list[str] = []
        missing: list[str] = []
        unjudged: list[str] = []
        for slot, value in meaning:
            key = (slot_key(slot), normal(value))
            judged = key in self._table or (key[1] and key[1] not in _YES_NO)
            (unjudged if not judged else said if key in said_of else missing).append(f"{slot}[{value}]")
        redundant = dict(self._redundant(found, given))
        return Judged(
            tuple(said), tuple(missing), tuple(f"{slot}: {text}" for slot, text in redundant.items()), tuple(unjudged)
        )

    def _matches(self, given: set[tuple[str, str]], text: str) -> list[_Match]:
        """All that the text says, without what is part of something longer."""
        table = dict(self._table)
        for slot, value in given - table.keys():
            if value and value not in _YES_NO:
                table[slot, value] = [_Phrasing.of(value)]
        plain, words = f" {normal(text)} ", _marked(text)
        found = [
            _Match(
                one.start(),
                one.end(),
                slot,
                self._turned(slot, value, words[: one.start()]),
                one[0],
                (slot, value) not in self._table,
            )
            for (slot, value), phrasings in table.items()
            for phrasing in phrasings
            if phrasing.start in plain
            for one in phrasing.pattern.finditer(words)
        ]
        return [one for one in found if not any(other.covers(one) for other in found)]

    def _turned(self, slot: str, value: str, before: str) -> str:
        """`no` for a `yes` that is negated."""
        negated = value == "yes" and slot in self._yes_no and not _NEGATIONS.isdisjoint(before.split()[-_REACH:])
        return "no" if negated else value

    def _redundant(self, found: list[_Match], given: set[tuple[str, str]]) -> Iterable[tuple[str, str]]:
        """Slots with a phrasing that says none of their given values, and that phrasing."""
        right = {(one.slot, one.start, one.end) for one in found if (one.slot, one.value) in given}
        for one in sorted(found, key=lambda match: (match.start, match.slot, match.value)):
            if (one.slot, one.start, one.end) not in right:
                yield one.slot, one.text


def slot_key(slot: str) -> str:
    """Names of slots by their letters and digits alone: `customer rating` is `customerRating`."""
    return "".join(one for one in slot.casefold() if one.isalnum())


def normal(text: str) -> str:
    """Words in small letters without accents, one blank between them.

    >>> normal("Café Rouge isn't child-friendly (£20-25).")
    'cafe rouge isn t child friendly £ 20 25'
    """
    return " ".join(_TOKEN.findall(_plain(text)))


def _marked(text: str) -> str:
    """The same with a mark for each punctuation that ends something."""
    return " ".join(_MARK if one in ".,;:!?" else one for one in _MARKED.findall(_plain(text)))


def _plain(text: str) -> str:
    return "".join(one for one in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(one))

"""Texts with two marked entities: reading the marks, writing markers for the model, and names of directed relations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from chainft.data.example import Example
from chainft.errors import DataError

Markers = Literal["punct", "typed"]
_MARK = re.compile(r"<(/?)e([12])>")
_SPAN = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*(?::\s*(.*\S)\s*)?")
_DIRECTED = re.compile(r"(.*\S)\s*\(\s*e([12])\s*,\s*e([12])\s*\)")


@dataclass(frozen=True)
class Entity:
    """A stretch of a text, `[start, end)` in characters."""

    start: int
    end: int
    type: str | None = None


@dataclass(frozen=True)
class Pair:
    """A text without marks, and the two entities whose relation is asked for."""

    text: str
    head: Entity
    """Marked by e1."""
    tail: Entity
    """Marked by e2."""

    @property
    def between(self) -> str:
        """The text from the end of the entity that stands first to the start of the other."""
        first, second = sorted((self.head, self.tail), key=lambda one: one.start)
        return self.text[first.end : second.start]

    def marked(self, markers: Markers) -> tuple[str, tuple[int, int], tuple[int, int]]:
        """The text with markers, and where head and tail stand in it, markers included.

        Zhou & Chen 2022 (arXiv:2102.01373, section 3): `@ head @`, `# tail #`; with types `@ * type * head @` and
        `# ^ type ^ tail #`. All are words that a model knows, so that it needs no new ones.
        """
        pieces: list[str] = []
        places: dict[str, tuple[int, int]] = {}
        done = length = 0
        for name, one, outer, inner in sorted(
            [("head", self.head, "@", "*"), ("tail", self.tail, "#", "^")], key=lambda entry: entry[1].start
        ):
            kind = f"{inner} {_words(one.type)} {inner} " if markers == "typed" and one.type else ""
            before, entity = self.text[done : one.start], f"{outer} {kind}{self.text[one.start : one.end]} {outer}"
            places[name] = (length + len(before), length + len(before) + len(entity))
            pieces += [before, entity]
            done, length = one.end, length + len(before) + len(entity)
        return "".join([*pieces, self.text[done:]]), places["head"], places["tail"]


def read_pair(values: Mapping[str, Any], where: str) -> Pair:
    """The pair of `text` with marks, or of `text` and the places `head` and `tail`; `head_type` and `tail_type` are for
    marks. Raises DataError at `where` for what is absent, twice there, empty, out of bounds or overlapping.

    A place is {"start": 3, "end": 8, "type": "person"}, [3, 8, "person"] or the text 3:8:person, in each the type as
    you like.
    """
    text = values["text"]
    types = [values.get(f"{name}_type") for name in ("head", "tail")]
    if values.get("head") is None and values.get("tail") is None:
        pair = _unmarked(text, where, types)
    elif _MARK.search(text):
        raise _problem("both-marks", "the text has marks such as <e1>, and head or tail are given too", where)
    else:
        head, tail = (
            _place(values.get(name), name, where, kind) for name, kind in zip(("head", "tail"), types, strict=True)
        )
        pair = Pair(text, head, tail)
    _check(pair, where)
    return pair


def pair_of(example: Example) -> Pair:
    """The pair of a sound example."""
    return read_pair(example.values, example.where())


def parse_label(label: str) -> tuple[str, str | None]:
    """Relation and direction: of SemEval's `Name(e1,e2)` or `Name(e2,e1)`; other labels say no direction.

    >>> parse_label("Cause-Effect(e2,e1)"), parse_label("Other")
    (('Cause-Effect', 'tail->head'), ('Other', None))
    """
    found = _DIRECTED.fullmatch(label)
    if found is None or found[2] == found[3]:
        return label, None
    return found[1], "head->tail" if found[2] == "1" else "tail->head"


def kept_tokens(
    first: tuple[int, int], second: tuple[int, int], total: int, room: int
) -> list[tuple[int, int]] | None:
    """Stretches of `total` tokens, `room` in all, that hold two entities `[start, end)` and what stands nearest to them.

    First what stands between the entities is kept, then what stands around them, evenly on both sides. None where the
    entities alone are more.

    >>> kept_tokens((2, 4), (6, 8), 10, 8), kept_tokens((0, 2), (8, 10), 10, 6)
    ([(1, 9)], [(0, 3), (7, 10)])
    """
    if total <= room:
        return [(0, total)]
    free = room - (second[1] - first[0])
    if free >= 0:
        left = min(first[0], max(free // 2, free - (total - second[1])))
        return [(first[0] - left, min(total, second[1] + free - left))]
    free = room - (first[1] - first[0]) - (second[1] - second[0])
    if free < 0:
        return None
    return [(first[0], first[1] + free // 2), (second[0] - (free - free // 2), second[1])]


def _unmarked(text: str, where: str, types: list[Any]) -> Pair:
    """Marks taken out; of two blanks that meet where a mark stood, one stays."""
    found: dict[str, int] = {}
    clean, done = "", 0
    for mark in _MARK.finditer(text):
        clean = _joined(clean, text[done : mark.start()])
        name = f"{mark[1]}e{mark[2]}"
        if name in found:
            raise _problem("twice-marked", f"the mark {mark[0]} is there twice", where)
        found[name] = len(clean)
        done = mark.end()
    clean = _joined(clean, text[done:])
    if absent := [name for name in ("e1", "/e1", "e2", "/e2") if name not in found]:
        raise _problem("no-mark", f"the mark <{absent[0]}> is absent", where)
    entities = [_trimmed(clean, found[f"e{n}"], found[f"/e{n}"], kind) for n, kind in zip((1, 2), types, strict=True)]
    return Pair(clean, entities[0], entities[1])


def _joined(text: str, more: str) -> str:
    return text + (more.lstrip() if not text or text[-1:].isspace() else more)


def _trimmed(text: str, start: int, end: int, kind: Any) -> Entity:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return Entity(start, end, kind)


def _place(value: Any, name: str, where: str, kind: Any) -> Entity:
    parts: Any = value
    if isinstance(value, str) and (found := _SPAN.fullmatch(value)):
        parts = [int(found[1]), int(found[2]), found[3]]
    elif isinstance(value, Mapping):
        parts = [value.get("start"), value.get("end"), value.get("type")]
    if not isinstance(parts, list | tuple) or len(parts) not in (2, 3) or not all(type(x) is int for x in parts[:2]):
        message = f"{name} must be a place in the text, not {value!r}"
        raise _problem("no-place", message, where, 'such as {"start": 3, "end": 8}, [3, 8] or 3:8')
    named = parts[2] if len(parts) == 3 and parts[2] is not None else kind
    if named is not None and not isinstance(named, str):
        raise _problem("no-type", f"the type of {name} must be a name, not {named!r}", where)
    return Entity(parts[0], parts[1], named)


def _check(pair: Pair, where: str) -> None:
    for name, one in (("head (e1)", pair.head), ("tail (e2)", pair.tail)):
        if not 0 <= one.start < one.end <= len(pair.text) or not pair.text[one.start : one.end].strip():
            message = f"{name} is empty or out of bounds: [{one.start}, {one.end}) of {len(pair.text)} characters"
            raise _problem("bad-place", message, where)
    if pair.head.start < pair.tail.end and pair.tail.start < pair.head.end:
        raise _problem("overlap", "the two entities overlap, so that no marker tells them apart", where)


def _problem(slug: str, message: str, where: str, help: str | None = None) -> DataError:
    other = "mark both entities once: <e1>...</e1> and <e2>...</e2>, or give their places as head and tail"
    return DataError(message, slug=slug, where=where, help=help or other)


def _words(kind: str) -> str:
    """A type as words: `ORG_COMPANY` -> `org company`."""
    return re.sub(r"[_\-/.]+", " ", kind).strip().lower()

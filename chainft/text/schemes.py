"""Tagging schemes: spans to tags and back, which scheme some data uses, and what is illegal in it.

=======  ==========================================================================================
iob2     every entity starts with B-, goes on with I- (BIO)
iob1     I- everywhere; B- only where an entity follows another of its type at once (CoNLL-2003 as published)
bioes    B- I- E- for entities of several words, S- for one word
bilou    B- I- L- for entities of several words, U- for one word
io       only the type, with or without I-: neighbours of one type cannot be told apart
=======  ==========================================================================================

Reading (`spans_of`) needs no scheme: one lenient rule, that of conlleval, reads every legal sequence of all of them
rightly. The scheme is needed to say what is *illegal* (`violations`), and that is a question of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Scheme = Literal["iob1", "iob2", "bioes", "bilou", "io"]
SCHEMES: tuple[Scheme, ...] = ("iob1", "iob2", "bioes", "bilou", "io")
OUTSIDE = "O"

_PREFIXES: Mapping[Scheme, str] = {"iob1": "BI", "iob2": "BI", "bioes": "BIES", "bilou": "BILU", "io": "I"}
_SLIP = re.compile(r"\s*(?:([BIESLU])\s*[-_–]\s*(\S+)|o)\s*", re.IGNORECASE)
"""A tag, or what is likely meant for one: a small letter, another dash, white space around."""
_OPENING = "BSU"
_CLOSING = "ESLU"
_ALL_PREFIXES = frozenset("BIESLU")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """An entity: words `[start, end)` and its type."""

    start: int
    end: int
    type: str


@dataclass(frozen=True, slots=True)
class Violation:
    """A tag that its scheme does not allow where it stands."""

    index: int
    message: str


@dataclass(frozen=True)
class Detected:
    """The scheme that tags are in, and why."""

    scheme: Scheme
    evidence: str


def split_tag(tag: str) -> tuple[str, str]:
    """Prefix and type: `B-PER` -> (B, PER); `O` -> (O, ""); a tag without prefix counts as I.

    >>> split_tag("I-work-of-art"), split_tag("person")
    (('I', 'work-of-art'), ('I', 'person'))
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if len(tag) > 2 and tag[1] == "-" and tag[0] in _ALL_PREFIXES:
        return tag[0], tag[2:]
    return "I", tag


def spans_of(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence, in any scheme; illegal sequences the way conlleval reads them.

    An entity starts at B, S or U, and at I, E or L that goes on with nothing or with another type; it ends
    after E, S, L or U, before O, and before the next start.
    """
    spans: list[Span] = []
    if tags.count(OUTSIDE) == len(tags):
        return spans  # Most sentences name nothing, and counting is far quicker.
    start, kind = -1, ""
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, type_ = split_tag(tag)
        goes_on = start >= 0 and prefix not in ("O", *_OPENING) and type_ == kind
        if start >= 0 and not goes_on:
            spans.append(Span(start, index, kind))
            start = -1
        if prefix != OUTSIDE and not goes_on:
            start, kind = index, type_
        if prefix in _CLOSING:
            spans.append(Span(start, index + 1, kind))
            start = -1
    return spans


def tags_of(spans: Iterable[Span], length: int, scheme: Scheme = "iob2") -> list[str]:
    """The tags of `length` words. Raises ValueError for spans that overlap or lie outside."""
    tags = [OUTSIDE] * length
    end, kind = 0, ""
    for span in sorted(spans):
        if not (end <= span.start < span.end <= length):
            raise ValueError(f"span {span} overlaps another or lies outside of {length} words")
        touching = span.start == end and span.type == kind
        for index, prefix in enumerate(_prefixes(span.end - span.start, scheme, touching=touching)):
            tags[span.start + index] = f"{prefix}-{span.type}"
        end, kind = span.end, span.type
    return tags


def convert(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """The same entities in another scheme (`io` joins neighbours of one type)."""
    return tags_of(spans_of(tags), len(tags), scheme)


def violations(tags: Sequence[str], scheme: Scheme) -> list[Violation]:
    """Every tag that `scheme` does not allow where it stands; empty where the sequence is legal."""
    found = [Violation(i, message) for i, tag in enumerate(tags) if (message := _malformed(tag, scheme))]
    if found:
        return found
    steps = zip([OUTSIDE, *tags], [*tags, None], strict=True)
    return [violation for i, (before, tag) in enumerate(steps) if (violation := _bad_step(i, before, tag, scheme))]


def legal_steps(tags: Sequence[str], scheme: Scheme) -> tuple[list[bool], list[list[bool]], list[bool]]:
    """For sound tags of a scheme: which may be first; which (column) may follow which (row); which may be last.

    A sequence is legal exactly where its first tag, every step in it, and its last tag are.

    >>> legal_steps(["O", "B-A", "I-A"], "iob2")
    ([True, True, False], [[True, True, False], [True, True, True], [True, True, True]], [True, True, True])
    """
    first = [_bad_step(0, OUTSIDE, tag, scheme) is None for tag in tags]
    between = [[_bad_step(1, before, tag, scheme) is None for tag in tags] for before in tags]
    return first, between, [_bad_step(1, tag, None, scheme) is None for tag in tags]


def malformed(tag: str) -> str | None:
    """Why a tag belongs to no scheme at all; None where it may."""
    if not tag or tag != tag.strip():
        return f"tag {tag!r} is empty or has white space around it"
    if tag == "o":
        return "tag 'o' is not 'O'"
    if len(tag) == 2 and tag[1] == "-":
        return f"tag {tag!r} has no type"
    if len(tag) > 2 and tag[1] == "-" and tag[0].isalpha() and tag[0] not in _ALL_PREFIXES:
        return f"tag {tag!r} starts with none of the prefixes B I E S L U"
    return None


def repaired(tags: Sequence[str], index: int, scheme: Scheme) -> str | None:
    """The tag that would make tag number `index` legal with the entities read as conlleval does; None without one.

    It is an offer to a person: chainft never changes tags on its own.

    >>> repaired(["O", "I-PER"], 1, "iob2"), repaired(["B-"], 0, "iob2"), repaired(["b_PER"], 0, "iob2")
    ('B-PER', None, 'B-PER')
    """
    slip = _SLIP.fullmatch(tags[index])
    if slip is not None:
        prefix, kind = slip.groups()
        better = f"{prefix.upper()}-{kind}" if prefix else OUTSIDE
        return better if better != tags[index] else _converted(tags, index, scheme)
    return _converted(tags, index, scheme) if malformed(tags[index]) is None else None


def _converted(tags: Sequence[str], index: int, scheme: Scheme) -> str | None:
    better = convert(tags, scheme)[index]
    return better if better != tags[index] else None


def detect(sentences: Iterable[Sequence[str]]) -> Detected:
    """The scheme of all sentences together, with what speaks for it.

    Prefixes decide between bioes, bilou, io and the two IOB schemes; these are told apart by how entities
    begin that follow no entity of their type: with B- in iob2, with I- in iob1.
    """
    prefixes: set[str] = set()
    plain: str | None = None
    starts = {"B": 0, "I": 0}
    for tags in sentences:
        previous = OUTSIDE
        for tag in tags:
            prefix, type_ = split_tag(tag)
            if tag in (OUTSIDE, type_):
                plain = plain or (type_ or None)
            else:
                prefixes.add(prefix)
            if prefix in starts and tag != type_ and split_tag(previous)[1] != type_:
                starts[prefix] += 1
            previous = tag
    return _judge(prefixes, plain, starts)


def _judge(prefixes: set[str], plain: str | None, starts: Mapping[str, int]) -> Detected:
    shown = " ".join(f"{prefix}-" for prefix in sorted(prefixes))
    if prefixes & set("ES"):
        return Detected("bioes", f"the prefixes are {shown}")
    if prefixes & set("LU"):
        return Detected("bilou", f"the prefixes are {shown}")
    if plain is not None and not prefixes:
        return Detected("io", f"tags such as {plain!r} have no prefix")
    evidence = f"{starts['B']} entities start with B-, {starts['I']} with I-"
    return Detected("iob1" if starts["I"] > starts["B"] else "iob2", evidence)


def _prefixes(length: int, scheme: Scheme, *, touching: bool) -> str:
    """The prefix of each word of one entity; `touching`: another of its type ends just before it."""
    match scheme:
        case "iob2":
            return "B" + "I" * (length - 1)
        case "iob1":
            return ("B" if touching else "I") + "I" * (length - 1)
        case "bioes":
            return "S" if length == 1 else "B" + "I" * (length - 2) + "E"
        case "bilou":
            return "U" if length == 1 else "B" + "I" * (length - 2) + "L"
        case "io":
            return "I" * length


def _malformed(tag: str, scheme: Scheme) -> str | None:
    prefix, type_ = split_tag(tag)
    if tag == OUTSIDE:
        return None
    if tag == type_ and scheme != "io":
        return malformed(tag) or f"tag {tag!r} has no prefix, which {scheme} needs"
    if prefix not in _PREFIXES[scheme]:
        return f"tag {tag!r} has the prefix {prefix}-, which {scheme} does not know"
    return malformed(tag)


def _bad_step(index: int, before: str, tag: str | None, scheme: Scheme) -> Violation | None:
    """What is illegal about `tag` number `index` (None: the end of the sentence) after `before`."""
    open_, type_ = split_tag(before)
    now, now_type = split_tag(OUTSIDE if tag is None else tag)
    same = type_ == now_type
    if scheme == "iob1" and now == "B" and not same:
        return Violation(index, f"tag {tag!r} after {before!r}: in iob1, B- only follows an entity of its own type")
    if scheme == "iob2" and now == "I" and not same:
        return Violation(index, f"tag {tag!r} after {before!r}: in iob2, I- only goes on an entity of its own type")
    if scheme not in ("bioes", "bilou"):
        return None
    is_open, goes_on = open_ in "BI", now not in (OUTSIDE, *_OPENING)
    if is_open and not (goes_on and same):
        where = "at the end of the sentence" if tag is None else f"before {tag!r}"
        last = _PREFIXES[scheme][2]
        return Violation(
            index - 1, f"tag {before!r} {where}: in {scheme}, an entity of several words ends with {last}-"
        )
    if goes_on and not is_open:
        return Violation(index, f"tag {tag!r} after {before!r}: in {scheme}, it must go on an entity")
    return None

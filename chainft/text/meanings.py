"""Meaning representations: slots and their values, as E2E writes them (`name[The Eagle], food[French]`) or as JSON.

J. Novikova et al., "The E2E Dataset: New Challenges For End-to-End Generation", SIGDIAL 2017.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

Meaning = tuple[tuple[str, str], ...]
"""Slots with their values, in the order given; a slot with several values comes several times."""

_PAIR = re.compile(r"\s*([^\[\],]+?)\s*\[([^\[\]]*)\]\s*")


class MeaningError(ValueError):
    """What is wrong with a meaning, in words."""


def read_meaning(value: object) -> Meaning:
    """The slots of text, of an object {slot: value or list of values}, or of a list of either.

    Raises MeaningError.

    >>> read_meaning("name[The Eagle], familyFriendly[yes]")
    (('name', 'The Eagle'), ('familyFriendly', 'yes'))
    >>> read_meaning({"name": "The Eagle", "familyFriendly": True, "near": ["Ranch", "Cocum"]})
    (('name', 'The Eagle'), ('familyFriendly', 'yes'), ('near', 'Ranch'), ('near', 'Cocum'))
    """
    if isinstance(value, str):
        pairs = _of_text(value)
    elif isinstance(value, Mapping):
        pairs = [(str(slot), one) for slot, found in value.items() for one in _values(slot, found)]
    elif isinstance(value, Sequence):
        pairs = [pair for one in value for pair in read_meaning(one)]
    else:
        raise MeaningError(f"text, an object or a list is wanted, not {value!r}")
    if not pairs:
        raise MeaningError("it has no slot")
    if any(not slot.strip() for slot, _ in pairs):
        raise MeaningError("a slot has no name")
    return tuple(pairs)


def show(meaning: Meaning) -> str:
    """As E2E writes it."""
    return ", ".join(f"{slot}[{value}]" for slot, value in meaning)


def _of_text(text: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    place = 0
    while True:
        found = _PAIR.match(text, place)
        if found is None:
            if not pairs and not text.strip():
                return []
            raise MeaningError(f"slot[value] is wanted at character {place}: {_short(text[place:])}")
        pairs.append((found[1], found[2].strip()))
        place = found.end()
        if place == len(text):
            return pairs
        if text[place] != ",":
            raise MeaningError(f"a comma is wanted at character {place}: {_short(text[place:])}")
        place += 1


def _values(slot: object, value: Any) -> list[str]:
    listed = value if isinstance(value, list | tuple) else [value]
    found = []
    for one in listed:
        if isinstance(one, bool):
            found.append("yes" if one else "no")
        elif isinstance(one, str | int | float):
            found.append(str(one).strip())
        elif one is not None:
            raise MeaningError(f"the value of {slot!r} is no text, number or truth value: {one!r}")
    return found


def _short(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:37]!r}..."

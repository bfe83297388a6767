"""Texts with entities at their places and relations between these: how they are written, and what is wrong with them.

Entities are objects `{"start": 0, "end": 3, "type": "person"}` (or `[0, 3, "person"]`), places in characters; with
`text` too, it is held against the place. Relations are `{"head": 0, "tail": 1, "type": "works_for"}` (or
`[0, 1, "works_for"]`); head and tail are the numbers of entities, from 0, or their `id` where entities have one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from chainft.data.example import Example
from chainft.errors import DataError, Problem, did_you_mean
from chainft.text.relations import Entity

NO_RELATION = "no_relation"
"""The label of pairs without a relation."""
_TYPE = ("type", "label")
_RELATION = ("type", "label", "relation")


class Link(NamedTuple):
    """A relation between two entities, by their numbers."""

    head: int
    tail: int
    name: str


class Annotated(NamedTuple):
    """What a sound example says."""

    text: str
    entities: tuple[Entity, ...]
    """In the order of the data."""
    links: tuple[Link, ...]


def annotation_problems(values: Mapping[str, Any], where: str, *, symmetric: Sequence[str] = ()) -> Iterator[Problem]:
    """All that is wrong with the entities and relations of a sound text."""
    yield from _Reader(values, where, symmetric).problems()


def annotated(example: Example) -> Annotated:
    """The entities and relations of an example. Raises DataError for what `annotation_problems` finds."""
    reader = _Reader(example.values, example.where(), ())
    if problems := list(reader.problems()):
        raise DataError.of(problems)
    return Annotated(example.values["text"], tuple(reader.entities), tuple(reader.links))


class _Reader:
    """Reads one example; `entities` and `links` are there when `problems` found none."""

    def __init__(self, values: Mapping[str, Any], where: str, symmetric: Sequence[str]) -> None:
        self.text: str = values["text"]
        self.values = values
        self.where = where
        self.symmetric = symmetric
        self.entities: list[Entity] = []
        self.links: list[Link] = []
        self.numbers: dict[Any, int] = {}
        """How relations name each entity."""

    def problems(self) -> Iterator[Problem]:
        found = [*self._lists(), *self._entities()] if not list(self._lists()) else list(self._lists())
        yield from found
        if found:
            return  # Without sound entities nothing can be said of relations.
        yield from self._overlaps()
        yield from self._relations()

    def _lists(self) -> Iterator[Problem]:
        for name in ("entities", "relations"):
            value = self.values.get(name)
            if not isinstance(value, list):
                help = f"where a text has no {name}, write an empty list"
                yield self._problem("wrong-type", f"{name} must be a list, not {_short(value)}", help)

    def _entities(self) -> Iterator[Problem]:
        ids = [one.get("id") if isinstance(one, Mapping) else None for one in self.values["entities"]]
        for number, given in enumerate(self.values["entities"]):
            entity = _entity(given)
            if entity is None:
                help = 'such as {"start": 0, "end": 3, "type": "person"}, places in characters'
                yield self._problem("no-entity", f"entity {number} is {_short(given)}: not a place and a type", help)
                continue
            yield from self._place(number, entity, given)
            self.entities.append(entity)
        if any(one is not None for one in ids):
            yield from self._ids(ids)
        self.numbers = {
            name: number for number, name in enumerate(ids if ids and ids[0] is not None else range(len(ids)))
        }

    def _place(self, number: int, one: Entity, given: Any) -> Iterator[Problem]:
        told = f"entity {number}, [{one.start}, {one.end})"
        if not 0 <= one.start < one.end <= len(self.text):
            message = f"{told}, is empty or out of the text, which has {len(self.text)} characters"
            yield self._problem("bad-place", message, "end is the place behind the last character")
            return
        found = self.text[one.start : one.end]
        said = given.get("text") if isinstance(given, Mapping) else None
        if said is not None and said != found:
            help = "places count characters, not bytes, from 0"
            if isinstance(said, str) and said and (place := self.text.find(said)) >= 0:
                help = f"{said!r} stands at [{place}, {place + len(said)}); {help}"
            yield self._problem("other-text", f"{told}, is {found!r} in the text, not {said!r}", help)
        elif found != found.strip():
            start = one.start + len(found) - len(found.lstrip())
            end = one.end - len(found) + len(found.rstrip())
            help = f"leave the white space out: [{start}, {end})" if start < end else "remove it"
            yield self._problem("blank-at-edge", f"{told}, {found!r}, begins or ends with white space", help)

    def _ids(self, ids: Sequence[Any]) -> Iterator[Problem]:
        for number, name in enumerate(ids):
            if not isinstance(name, str | int):
                help = "give all entities an id, or none of them and let relations count from 0"
                yield self._problem("no-id", f"entity {number} has the id {_short(name)}, others have one", help)
            elif ids.index(name) != number:
                message = f"entities {ids.index(name)} and {number} have the same id {name!r}"
                yield self._problem("same-id", message, "give each its own")

    def _overlaps(self) -> Iterator[Problem]:
        order = sorted(range(len(self.entities)), key=lambda number: self.entities[number].start)
        for before, after in pairwise(order):
            one, other = self.entities[before], self.entities[after]
            if other.start < one.end:
                shown = [self.text[entity.start : entity.end] for entity in (one, other)]
                message = (
                    f"entities {before} [{one.start}, {one.end}) {shown[0]!r} and {after} "
                    f"[{other.start}, {other.end}) {shown[1]!r} overlap"
                )
                yield self._problem("overlap", message, "keep one of them: a word is in one entity at most")

    def _relations(self) -> Iterator[Problem]:
        seen: dict[Link, int] = {}
        for number, given in enumerate(self.values["relations"]):
            parts = _parts(given, ("head", "tail"), _RELATION)
            if parts is None or not isinstance(parts[2], str) or not parts[2].strip():
                help = 'such as {"head": 0, "tail": 1, "type": "works_for"}'
                yield self._problem(
                    "no-relation", f"relation {number} is {_short(given)}: no head, tail and type", help
                )
                continue
            if absent := [name for name in parts[:2] if not isinstance(name, str | int) or name not in self.numbers]:
                yield self._absent(number, absent[0])
                continue
            link = Link(self.numbers[parts[0]], self.numbers[parts[1]], parts[2])
            yield from self._link(number, link, seen)
            self.links.append(link)

    def _link(self, number: int, link: Link, seen: dict[Link, int]) -> Iterator[Problem]:
        told = f"relation {number}, {link.name!r} from {self._shown(link.head)} to {self._shown(link.tail)},"
        if link.head == link.tail:
            yield self._problem("self-relation", f"{told} is of an entity with itself", "name two entities")
        if link.name.casefold() == NO_RELATION:
            help = "leave such relations out: pairs that no relation names are taken for that"
            yield self._problem("negative-relation", f"{told} has the name of pairs without a relation", help)
        is_two_way = link.name in self.symmetric
        key = Link(min(link[:2]), max(link[:2]), link.name) if is_two_way else link
        if key in seen:
            because = f" ({link.name} is in task.symmetric)" if is_two_way else ""
            yield self._problem("duplicate-relation", f"{told} is relation {seen[key]} again{because}", "keep one")
        seen.setdefault(key, number)

    def _absent(self, number: int, name: Any) -> Problem:
        known = ", ".join(map(str, list(self.numbers)[:10])) or "none"
        near = did_you_mean(str(name), [str(one) for one in self.numbers]) if isinstance(name, str) else None
        named = (
            "ids"
            if self.numbers
            and not isinstance(self.values["entities"][0], list)
            and (self.values["entities"][0].get("id") is not None)
            else "numbers, from 0"
        )
        message = f"relation {number} is with entity {name!r}, which is not there"
        return self._problem("no-such-entity", message, near or f"the entities of this text ({named}): {known}")

    def _shown(self, number: int) -> str:
        one = self.entities[number]
        return repr(self.text[one.start : one.end])

    def _problem(self, slug: str, message: str, help: str) -> Problem:
        return Problem(slug, message, where=self.where, help=help)


def _entity(given: Any) -> Entity | None:
    parts = _parts(given, ("start", "end"), _TYPE)
    if parts is None or type(parts[0]) is not int or type(parts[1]) is not int:
        return None
    return Entity(parts[0], parts[1], parts[2]) if isinstance(parts[2], str) and parts[2].strip() else None


def _parts(given: Any, ends: tuple[str, str], names: Sequence[str]) -> list[Any] | None:
    """The three parts of an object or a list; None where they are not there."""
    if isinstance(given, Mapping):
        name = next((given[key] for key in names if given.get(key) is not None), None)
        return [given.get(ends[0]), given.get(ends[1]), name]
    return given if isinstance(given, list) and len(given) == 3 else None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

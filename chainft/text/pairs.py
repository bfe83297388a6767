"""Which pairs of entities are asked for their relation, the label of each, and relations as they are counted.

A pair is asked once, the entity that stands first in the text as e1: the label says by `(e1,e2)` or `(e2,e1)` from
which of them the relation goes, or nothing for one that is the same in both directions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from chainft.text.annotations import NO_RELATION, Link
from chainft.text.relations import Entity, parse_label

TypePair = tuple[str, str]
"""Two entity types in alphabetical order."""


class Place(NamedTuple):
    """An entity as it is counted."""

    start: int
    end: int
    type: str


class Fact(NamedTuple):
    """A relation as it is counted; of one without direction, `head` stands first."""

    head: Place
    tail: Place
    relation: str


@dataclass(frozen=True)
class PairRule:
    """Which pairs are asked: in training the same as in prediction."""

    type_pairs: frozenset[TypePair] | None
    """Those that may be related; None: all."""
    max_distance: int | None
    """Most words between the two entities."""
    max_pairs: int
    """Most pairs of a text; the nearest are taken."""

    def pairs(self, text: str, entities: Sequence[Entity]) -> list[tuple[int, int]]:
        """Numbers of the entities of each pair, the one that stands first before the other; pairs in order."""
        order = sorted(range(len(entities)), key=lambda number: entities[number].start)
        near: list[tuple[int, int, int, int, int]] = []
        for first, second in combinations(order, 2):
            if self.type_pairs is not None and type_pair(entities[first], entities[second]) not in self.type_pairs:
                continue
            distance = words_between(text, entities[first], entities[second])
            if self.max_distance is None or distance <= self.max_distance:
                near.append((distance, entities[first].start, entities[second].start, first, second))
        return sorted((first, second) for *_, first, second in sorted(near)[: self.max_pairs])


def type_pair(one: Entity, other: Entity) -> TypePair:
    """The types of two entities, whichever of them is first."""
    first, second = sorted((str(one.type), str(other.type)))
    return first, second


def words_between(text: str, first: Entity, second: Entity) -> int:
    """Words, by white space, from the end of one entity to the start of the next."""
    return len(text[first.end : second.start].split())


def label_names(relations: Iterable[str], symmetric: Collection[str]) -> tuple[str, ...]:
    """All labels of pairs: none, and each relation in both directions, whether or not training has both.

    >>> label_names(["near", "owns"], ["near"])
    ('no_relation', 'near', 'owns(e1,e2)', 'owns(e2,e1)')
    """
    names = [NO_RELATION]
    for relation in relations:
        names += [relation] if relation in symmetric else [f"{relation}(e1,e2)", f"{relation}(e2,e1)"]
    return tuple(names)


def labels_of_pairs(
    links: Sequence[Link], entities: Sequence[Entity], symmetric: Collection[str]
) -> dict[tuple[int, int], str]:
    """The label of each pair that has a relation, the entity that stands first before the other; of several relations of
    one pair the first."""
    found: dict[tuple[int, int], str] = {}
    for link in links:
        forward = entities[link.head].start < entities[link.tail].start
        pair = (link.head, link.tail) if forward else (link.tail, link.head)
        label = link.name if link.name in symmetric else f"{link.name}({'e1,e2' if forward else 'e2,e1'})"
        found.setdefault(pair, label)
    return found


def place(text: str, one: Entity) -> dict[str, Any]:
    """An entity as predictions show it."""
    return {"start": one.start, "end": one.end, "type": one.type, "text": text[one.start : one.end]}


def answer(text: str, pair: tuple[Entity, Entity], label: str, score: float) -> dict[str, Any]:
    """A relation as predictions show it; `pair`: the entity that stands first, and the other. `head` and `tail` are the
    ends of the relation, as in the data, and `direction` is null for a relation without one."""
    relation, told = parse_label(label)
    head, tail = reversed(pair) if told == "tail->head" else pair
    direction = None if told is None else "head->tail"
    ends = {"head": place(text, head), "tail": place(text, tail)}
    return {**ends, "relation": relation, "label": label, "direction": direction, "score": score}


def facts_of_links(links: Iterable[Link], entities: Sequence[Entity], symmetric: Collection[str]) -> Iterator[Fact]:
    """Gold relations as they are counted."""
    for link in links:
        head, tail = _place(entities[link.head]), _place(entities[link.tail])
        if link.name in symmetric and tail < head:
            head, tail = tail, head
        yield Fact(head, tail, link.name)


def facts_of_answers(answers: Iterable[Mapping[str, Any]]) -> Iterator[Fact]:
    """Predicted relations as they are counted."""
    for one in answers:
        yield Fact(place_of(one["head"]), place_of(one["tail"]), one["relation"])


def place_of(shown: Mapping[str, Any]) -> Place:
    """A predicted entity as it is counted."""
    return Place(shown["start"], shown["end"], shown["type"])


def _place(one: Entity) -> Place:
    return Place(one.start, one.end, str(one.type))

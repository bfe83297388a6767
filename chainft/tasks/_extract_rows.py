"""What the two heads of the extract task see of an example: a text with a tag for each word, and its pairs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chainft.data.example import Example
from chainft.text.align import encode_text
from chainft.text.annotations import NO_RELATION, annotated
from chainft.text.pairs import Fact, PairRule, TypePair, labels_of_pairs, place, type_pair
from chainft.text.relations import Entity
from chainft.text.schemes import Span, tags_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tagged(tokenizer: PreTrainedTokenizerBase, example: Example) -> Example:
    """The text as the task ner takes it, with an IOB2 tag for each word of the tokenizer where entities are told.

    A word that is only partly in an entity is tagged as a whole, and one that two entities share is the first one's.
    """
    text = example.values["text"]
    if "entities" not in example.values:
        return replace(example, values={"text": text})
    places = encode_text(tokenizer, text).spans
    spans: list[Span] = []
    for one in sorted(annotated(example).entities, key=lambda entity: entity.start):
        inside = [number for number, (start, end) in enumerate(places) if start < one.end and end > one.start]
        free = [number for number in inside if not spans or number >= spans[-1].end]
        if free:
            spans.append(Span(free[0], free[-1] + 1, str(one.type)))
    return replace(example, values={"text": text, "tags": tags_of(spans, len(places))})


def cut_entities(tokenizer: PreTrainedTokenizerBase, text: str, entities: Sequence[Entity]) -> list[Entity]:
    """The entities that begin or end inside of a word of the tokenizer."""
    places = encode_text(tokenizer, text).spans
    starts, ends = {start for start, _ in places}, {end for _, end in places}
    return [one for one in entities if one.start not in starts or one.end not in ends]


def pair_examples(example: Example, rule: PairRule, symmetric: Collection[str]) -> list[Example]:
    """The pairs of the told entities that are asked, as the task relation takes them, with their labels."""
    text, entities, links = annotated(example)
    labels = labels_of_pairs(links, entities, symmetric)
    pairs = {one: pair_values(text, entities[one[0]], entities[one[1]]) for one in rule.pairs(text, entities)}
    return [
        replace(example, values={**values, "label": labels.get(one, NO_RELATION)}) for one, values in pairs.items()
    ]


def pair_values(text: str, first: Entity, second: Entity) -> dict[str, Any]:
    """A pair without label; the entity that stands first is the head (e1)."""
    return {"text": text, "head": place(text, first), "tail": place(text, second)}


def related_types(example: Example) -> Iterator[TypePair]:
    """The types of the entities of each relation."""
    _, entities, links = annotated(example)
    for link in links:
        yield type_pair(entities[link.head], entities[link.tail])


def shown(text: str, facts: Sequence[Fact]) -> str:
    """Relations in words, for the report."""
    told = [f"{one.relation}: {text[slice(*one.head[:2])]} → {text[slice(*one.tail[:2])]}" for one in facts]
    return "; ".join(told) or "no relations"

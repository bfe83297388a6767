"""Simple answers for entities with relations: names of train looked up, and what pairs of their types mostly are.

Of a pair of types in the order of the text, training says which label is the most frequent (or the most frequent that is
a relation). `nearest`: each entity gets the relation that is the most frequent with the nearest entity of types that are
related. `every_pair`: each pair gets the most frequent label of its types, which may be none.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from chainft.data.example import Example
from chainft.tasks.base import Baseline
from chainft.text.annotations import NO_RELATION, Annotated, annotated
from chainft.text.lexicon import Lexicon
from chainft.text.pairs import PairRule, answer, facts_of_answers, labels_of_pairs, words_between
from chainft.text.relations import Entity
from chainft.text.schemes import Span, spans_of, tags_of

Choose = Callable[[str, Sequence[Entity]], list[dict[str, Any]]]
"""The relations between these entities of a text, as predictions show them."""
_WORD = re.compile(r"\w+|[^\w\s]")


def baselines(train: Sequence[Example], rule: PairRule, symmetric: Collection[str]) -> Mapping[str, Baseline]:
    """`lexicon_nearest` and `lexicon_every_pair`, in the form that `chainft.metrics.extraction` takes."""
    known = [annotated(one) for one in train]
    lexicon = Lexicon(_tagged(one.text, one.entities) for one in known)
    counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in known:
        labels = labels_of_pairs(one.links, one.entities, symmetric)
        for first, second in rule.pairs(one.text, one.entities):
            key = (str(one.entities[first].type), str(one.entities[second].type))
            counts[key][labels.get((first, second), NO_RELATION)] += 1
    mostly = {key: found.most_common(1)[0][0] for key, found in counts.items()}
    related = {key: _best_relation(found) for key, found in counts.items()}

    def every_pair(text: str, entities: Sequence[Entity]) -> list[dict[str, Any]]:
        return _answers(text, entities, rule.pairs(text, entities), mostly)

    def nearest(text: str, entities: Sequence[Entity]) -> list[dict[str, Any]]:
        return _answers(text, entities, _nearest(text, entities, rule.pairs(text, entities)), related)

    choices: Mapping[str, Choose] = {"lexicon_nearest": nearest, "lexicon_every_pair": every_pair}
    return {name: _baseline(lexicon, choose) for name, choose in choices.items()}


def _baseline(lexicon: Lexicon, choose: Choose) -> Baseline:
    def say(example: Example) -> dict[str, Any]:
        gold: Annotated = annotated(example)
        found = _found(gold.text, lexicon)
        return {
            "entities": [(one.start, one.end, str(one.type)) for one in found],
            "relations": list(facts_of_answers(choose(gold.text, found))),
            "given": list(facts_of_answers(choose(gold.text, gold.entities))),
        }

    return say


def _answers(
    text: str, entities: Sequence[Entity], pairs: Sequence[tuple[int, int]], labels: Mapping[tuple[str, str], str]
) -> list[dict[str, Any]]:
    found = []
    for first, second in pairs:
        pair = entities[first], entities[second]
        label = labels.get((str(pair[0].type), str(pair[1].type)), NO_RELATION)
        if label != NO_RELATION:
            found.append(answer(text, pair, label, 1.0))
    return found


def _nearest(text: str, entities: Sequence[Entity], pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Of each entity its pair with the fewest words between."""
    kept: set[tuple[int, int]] = set()
    for number in range(len(entities)):
        mine = [pair for pair in pairs if number in pair]
        if mine:
            kept.add(min(mine, key=lambda pair: (words_between(text, entities[pair[0]], entities[pair[1]]), pair)))
    return sorted(kept)


def _best_relation(counts: Counter[str]) -> str:
    return next((label for label, _ in counts.most_common() if label != NO_RELATION), NO_RELATION)


def _tagged(text: str, entities: Sequence[Entity]) -> tuple[list[str], list[str]]:
    """Words and marks of a text, with IOB2 tags of the entities."""
    places = [(word.start(), word.end()) for word in _WORD.finditer(text)]
    spans: list[Span] = []
    for one in sorted(entities, key=lambda entity: entity.start):
        inside = [number for number, place in enumerate(places) if place[0] < one.end and place[1] > one.start]
        if inside and (not spans or spans[-1].end <= inside[0]):
            spans.append(Span(inside[0], inside[-1] + 1, str(one.type)))
    return [text[start:end] for start, end in places], tags_of(spans, len(places))


def _found(text: str, lexicon: Lexicon) -> list[Entity]:
    places = [(word.start(), word.end()) for word in _WORD.finditer(text)]
    tags = lexicon.tags([text[start:end] for start, end in places])
    return [Entity(places[span.start][0], places[span.end - 1][1], span.type) for span in spans_of(tags)]

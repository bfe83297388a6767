"""What only whole splits of entities with relations show: pairs that are never asked, and labels that pairs cannot have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from chainft.data.example import Example, Finding, Split
from chainft.text.annotations import annotated
from chainft.text.pairs import PairRule, labels_of_pairs, type_pair
from chainft.text.relations import Entity

Cut = Callable[[str, Sequence[Entity]], list[Entity]]
"""The entities of a text that begin or end inside of a word of the tokenizer."""


def findings(
    splits: Mapping[Split, Sequence[Example]], rule: PairRule, symmetric: Collection[str], cut: Cut | None
) -> Iterator[Finding]:
    """Of each split; `cut` is None before there is a tokenizer."""
    for split, rows in splits.items():
        found = _Found(rule, symmetric, cut)
        for row in rows:
            found.add(row)
        yield from found.told(split)


class _Found:
    """Counts in the examples of a split."""

    def __init__(self, rule: PairRule, symmetric: Collection[str], cut: Cut | None) -> None:
        self.rule = rule
        self.symmetric = symmetric
        self.cut = cut
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, row: Example) -> None:
        text, entities, links = annotated(row)
        asked = self.rule.pairs(text, entities)
        related = labels_of_pairs(links, entities, self.symmetric)
        lost = related.keys() - set(asked)
        types = self.rule.type_pairs
        foreign = sum(types is not None and type_pair(*(entities[one] for one in pair)) not in types for pair in lost)
        pieces = 0 if self.cut is None else len(self.cut(text, entities))
        self._count("related", len(related) - len(lost), row)
        self._count("unrelated", len(set(asked) - related.keys()), row)
        self._count("several", len(links) - len(related), row)
        self._count("foreign", foreign, row)
        self._count("far", len(lost) - foreign, row)
        self._count("cut", pieces, row)

    def _count(self, name: str, number: int, row: Example) -> None:
        self.counts[name] += number
        if number:
            self.first.setdefault(name, row.where())

    def told(self, split: Split) -> Iterator[Finding]:
        related, unrelated = self.counts["related"], self.counts["unrelated"]
        yield Finding(
            "pairs", "info", f"{split}: {related} pairs with a relation are asked, and {unrelated} without one"
        )
        if split == "train" and not related:
            message, help = "train: no pair of entities with a relation", "learn entities alone by task=ner"
            yield Finding("no-relations", "error", message, help=help)
        elif split == "train" and not unrelated:
            message = "train: no pair without a relation is asked, so that the model cannot learn that there is none"
            help = "add texts in which entities of these types have no relation"
            yield Finding("no-negatives", "warning", message, help=help)
        yield from self._warn(
            split, "several", "relations are of a pair that has another one too, and a pair gets one answer", None
        )
        yield from self._warn(
            split,
            "foreign",
            "relations are between types that training never relates, and are not asked for",
            "set task.type_pairs=all",
        )
        yield from self._warn(
            split,
            "far",
            "relations are of pairs that task.max_distance or task.max_pairs leave out",
            "raise them, or set task.max_distance=null",
        )
        yield from self._warn(
            split,
            "cut",
            "entities begin or end inside of a word of the tokenizer, and are learned as the whole word",
            "let entities be whole words, or take a model with another tokenizer",
        )

    def _warn(self, split: Split, name: str, words: str, help: str | None) -> Iterator[Finding]:
        if number := self.counts[name]:
            slug = f"{name}-relations" if name != "cut" else "cut-entities"
            yield Finding(slug, "warning", f"{split}: {number} {words}", self.first[name], help, number)

"""Scores of whole entities, as seqeval counts them: right only if the type and both ends are right.

Two readings of tags: the lenient one of conlleval (an I- that follows nothing starts an entity), and the strict one
of IOB2 (an entity starts with B-). Counts are summed sentence by sentence, so memory does not grow; the result equals
`seqeval.metrics.classification_report` over all sentences at once. Where nothing is gold or predicted, a rate is 0.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import ClassVar, Literal

from chainft.metrics.base import Counts, mean
from chainft.metrics.tokens import tag_table
from chainft.tasks.base import Metric, Scores
from chainft.text.schemes import OUTSIDE

Entity = tuple[str, int, int]
"""Type, first and last word."""
Readings = tuple[frozenset[Entity], frozenset[Entity]]
"""The entities of a sentence, lenient and strict."""
_KEPT_READINGS = 16_384
"""Sentences with gold entities that are remembered (some 10 MB): they come again, in order, with each evaluation."""


class Entities(Metric):
    """Precision, recall and F1 of entities, lenient and strict."""

    family: ClassVar[Literal["tags"]] = "tags"

    def __init__(self) -> None:
        self._lenient = _Tally()
        self._strict = _Tally()

    def update(self, gold: Sequence[str], predicted: Sequence[str]) -> None:
        """Count the IOB2 tags of one sentence. Raises ValueError for different lengths."""
        if len(gold) != len(predicted):
            raise ValueError(f"{len(predicted)} predicted tags for {len(gold)} words")
        in_gold = _none_or(_read_again, gold)
        in_predicted = in_gold if gold == predicted else _none_or(_read, predicted)
        self._lenient.add(in_gold[0], in_predicted[0])
        self._strict.add(in_gold[1], in_predicted[1])

    def compute(self) -> Scores:
        """Rates of all types together, the mean F1 over types, and a table with a row a type."""
        types = self._lenient.by_type()
        lenient, strict = self._lenient.together(), self._strict.together()
        values = {
            "entity_precision": lenient.precision,
            "entity_recall": lenient.recall,
            "entity_f1": lenient.f1,
            "entity_f1_macro": mean(counts.f1 for counts in types.values()),
            "entity_precision_strict": strict.precision,
            "entity_recall_strict": strict.recall,
            "entity_f1_strict": strict.f1,
        }
        return Scores(values, (tag_table("Entities (type and both ends must be right)", "type", types, lenient),))


class _Tally:
    """Right, predicted and gold entities of each type."""

    def __init__(self) -> None:
        self.right: Counter[str] = Counter()
        self.predicted: Counter[str] = Counter()
        self.gold: Counter[str] = Counter()

    def add(self, gold: frozenset[Entity], predicted: frozenset[Entity]) -> None:
        self.gold.update(kind for kind, _, _ in gold)
        self.predicted.update(kind for kind, _, _ in predicted)
        self.right.update(kind for kind, _, _ in gold & predicted)

    def by_type(self) -> dict[str, Counts]:
        """Sorted by name."""
        names = sorted({*self.gold, *self.predicted})
        return {name: Counts(self.right[name], self.predicted[name], self.gold[name]) for name in names}

    def together(self) -> Counts:
        """All types as one."""
        return Counts(self.right.total(), self.predicted.total(), self.gold.total())


def _none_or(read: Callable[[tuple[str, ...]], Readings], tags: Sequence[str]) -> Readings:
    """What `read` finds. Most sentences name nothing, and counting is far quicker than reading."""
    return (frozenset(), frozenset()) if tags.count(OUTSIDE) == len(tags) else read(tuple(tags))


def _read(tags: tuple[str, ...]) -> Readings:
    from seqeval.metrics.sequence_labeling import get_entities
    from seqeval.scheme import IOB2, Tokens

    strict = Tokens(list(tags), IOB2).entities
    return frozenset(get_entities(list(tags))), frozenset((one.tag, one.start, one.end - 1) for one in strict)


_read_again = lru_cache(maxsize=_KEPT_READINGS)(_read)

PLUGIN = Entities

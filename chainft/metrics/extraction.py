"""Scores of entities and of the relations between them, end to end and with the entities given.

Definitions as Taillé et al. 2020 set them apart (*Let's stop incorrect comparisons in end-to-end relation extraction!*,
EMNLP 2020, section 3): an entity is right if its boundaries and its type are. In the setting *boundaries* (Rel of Zhong &
Chen 2021) a relation is right if its name and the boundaries of head and tail are; in the setting *strict* (Rel+) if
their types are as well. Micro counts all relations together, macro averages over the names of relations. The scores of
relations with entities given are of a pass in which the pairs are those of the right entities: what the classifier of
pairs does by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal

from chainft.metrics.base import Counts, mean
from chainft.tasks.base import Metric, Scores, Table
from chainft.text.pairs import Fact

Setting = Literal["strict", "boundaries", "given_entities"]


class Extraction(Metric):
    """Counts right, predicted and gold answers; memory grows with the number of relation names only.

    `update` takes {"entities": places, "relations": facts} (`chainft.text.pairs.Place`, `Fact`), of the prediction also
    "given": the facts that are predicted between the gold entities. What is there twice counts once.
    """

    family: ClassVar[str] = "extraction"

    def __init__(self) -> None:
        self._entities: Counter[str] = Counter()
        self._relations: dict[Setting, dict[str, Counter[str]]] = {
            "strict": {},
            "boundaries": {},
            "given_entities": {},
        }

    def update(self, gold: Mapping[str, Any], predicted: Mapping[str, Any]) -> None:
        _count(self._entities, set(gold["entities"]), set(predicted["entities"]))
        self._add("strict", gold["relations"], predicted["relations"], _whole)
        self._add("boundaries", gold["relations"], predicted["relations"], _without_types)
        self._add("given_entities", gold["relations"], predicted["given"], _whole)

    def compute(self) -> Scores:
        entities = _counts(self._entities)
        values = {
            "entity_f1": entities.f1,
            "entity_precision": entities.precision,
            "entity_recall": entities.recall,
        }
        for setting, relations in self._relations.items():
            counts = {name: _counts(one) for name, one in relations.items()}
            micro = Counts(0, 0, 0)
            for one in counts.values():
                micro = micro.plus(one)
            start = f"relation_{setting}"
            values |= {
                f"{start}_f1_micro": micro.f1,
                f"{start}_precision_micro": micro.precision,
                f"{start}_recall_micro": micro.recall,
                f"{start}_f1_macro": mean(one.f1 for one in counts.values()),
                f"{start}_precision_macro": mean(one.precision for one in counts.values()),
                f"{start}_recall_macro": mean(one.recall for one in counts.values()),
            }
        return Scores(values, (self._table(),), meanings=_meanings())

    def _add(
        self, setting: Setting, gold: Iterable[Fact], predicted: Iterable[Fact], seen: Callable[[Fact], Any]
    ) -> None:
        counts = self._relations[setting]
        found = {name: _of(name, gold, seen) for name in {one.relation for one in gold}}
        answers = {name: _of(name, predicted, seen) for name in {one.relation for one in predicted}}
        for name in found.keys() | answers.keys():
            _count(counts.setdefault(name, Counter()), found.get(name, set()), answers.get(name, set()))

    def _table(self) -> Table:
        rows = []
        for name in sorted(set().union(*self._relations.values())):
            strict, loose, given = (_counts(one.get(name, Counter())) for one in self._relations.values())
            rows.append(
                (name, strict.precision, strict.recall, strict.f1, loose.f1, given.f1, strict.gold, strict.predicted)
            )
        columns = (
            "relation",
            "precision",
            "recall",
            "F1",
            "F1 (boundaries)",
            "F1 (entities given)",
            "gold",
            "predicted",
        )
        note = (
            "A relation is right if its name and both entities are: boundaries and types, or boundaries alone in the "
            "column that says so. Entities given: the model is told the entities and names the relations only."
        )
        return Table("Relations end to end", columns, tuple(rows), note)


def _whole(fact: Fact) -> Any:
    return fact


def _without_types(fact: Fact) -> Any:
    return fact.head[:2], fact.tail[:2], fact.relation


def _of(name: str, facts: Iterable[Fact], seen: Callable[[Fact], Any]) -> set[Any]:
    return {seen(one) for one in facts if one.relation == name}


def _count(counts: Counter[str], gold: set[Any], predicted: set[Any]) -> None:
    counts.update(right=len(gold & predicted), predicted=len(predicted), gold=len(gold))


def _counts(counts: Counter[str]) -> Counts:
    return Counts(counts["right"], counts["predicted"], counts["gold"])


_RIGHT: Mapping[Setting, str] = {
    "strict": "right are relations whose name is, and boundaries and types of both entities, which the model found (Rel+)",
    "boundaries": "right are relations whose name is, and the boundaries of both entities, which the model found (Rel)",
    "given_entities": "the model is told the right entities, and names the relations only",
}
_SHARES = {
    "f1": "F1 of relations",
    "precision": "share of the predicted relations that is right",
    "recall": "share of the relations there are that was found",
}
_MEANS = {"micro": "all together", "macro": "averaged over the names of relations"}


def _meanings() -> dict[str, str]:
    """What each value counts."""
    found = {
        "entity_f1": "F1 of entities: right are those whose boundaries and type are",
        "entity_precision": "share of the predicted entities whose boundaries and type are right",
        "entity_recall": "share of the entities there are that was found, boundaries and type",
    }
    for setting, right in _RIGHT.items():
        for share, words in _SHARES.items():
            for mean_of, how in _MEANS.items():
                found[f"relation_{setting}_{share}_{mean_of}"] = f"{words}, {how}; {right}"
    return found


PLUGIN = Extraction

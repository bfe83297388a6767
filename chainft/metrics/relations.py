"""Scores of relations between two entities, as SemEval-2010 Task 8 counts them, and in general.

The official score of that task (Hendrickx et al. 2010, section 3.2, and its scorer) is the (9+1)-way macro-F1 that takes
direction into account: for each relation, right are the answers with relation *and* direction of the gold label;
precision divides them by the answers with the relation in any direction, recall by the gold labels with it in any
direction. F1 is averaged over relations; the label of pairs without one (Other) is none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar

from chainft.metrics.base import Counts, mean, ratio
from chainft.metrics.classification import Classification
from chainft.tasks.base import Chart, Metric, Scores, Series, Table
from chainft.text.relations import parse_label

FAR = ((0, "0"), (2, "1-2"), (5, "3-5"), (10, "6-10"), (20, "11-20"))
"""Most words between the entities, and its name, of each stretch of the chart."""
FARTHEST = "more"


class Relations(Metric):
    """Counts pairs of labels; memory grows with their number only.

    `update` takes as gold {"label": ..., "negative": the label of no relation or None, "distance": words between the
    entities}, and a predicted label. Relations that are neither gold nor predicted count in no average.
    """

    family: ClassVar[str] = "relation"

    def __init__(self) -> None:
        self._labels = Classification()
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._by_distance: defaultdict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        self._negative: str | None = None

    def update(self, gold: Mapping[str, Any], predicted: str) -> None:
        self._negative = gold["negative"]
        self._labels.update(gold["label"], predicted)
        self._pairs[gold["label"], predicted] += 1
        self._by_distance[_stretch(gold["distance"])][gold["label"], predicted] += 1

    def compute(self) -> Scores:
        """`relation_f1_macro` is the official score; micro counts all labels but the negative one together."""
        relations = self._by_relation()
        micro = self._micro(self._pairs)
        values = {
            "relation_f1_macro": mean(one.f1 for one in relations.values()),
            "relation_precision_macro": mean(one.precision for one in relations.values()),
            "relation_recall_macro": mean(one.recall for one in relations.values()),
            "relation_f1_micro": micro.f1,
            "relation_precision_micro": micro.precision,
            "relation_recall_micro": micro.recall,
            "relation_f1_undirected": mean(one.f1 for one in self._by_relation(directed=False).values()),
            "accuracy": ratio(
                sum(n for (gold, answer), n in self._pairs.items() if gold == answer), self._pairs.total()
            ),
        }
        labels = self._labels.compute()
        return Scores(
            values, (self._table(relations), *labels.tables), labels.confusions, tuple(self._charts()), _MEANINGS
        )

    def _by_relation(self, *, directed: bool = True) -> dict[str, Counts]:
        counts: defaultdict[str, Counts] = defaultdict(lambda: Counts(0, 0, 0))
        for (gold, answer), number in self._pairs.items():
            relation, predicted = parse_label(gold)[0], parse_label(answer)[0]
            is_right = gold == answer if directed else relation == predicted
            counts[relation] = counts[relation].plus(Counts(number if is_right else 0, 0, number))
            counts[predicted] = counts[predicted].plus(Counts(0, number, 0))
        return {name: counts[name] for name in sorted(counts) if name != self._negative}

    def _micro(self, pairs: Counter[tuple[str, str]]) -> Counts:
        right = sum(n for (gold, answer), n in pairs.items() if gold == answer != self._negative)
        predicted = sum(n for (_, answer), n in pairs.items() if answer != self._negative)
        return Counts(right, predicted, sum(n for (gold, _), n in pairs.items() if gold != self._negative))

    def _table(self, relations: Mapping[str, Counts]) -> Table:
        wrong: Counter[str] = Counter()
        for (gold, answer), number in self._pairs.items():
            if gold != answer and parse_label(gold)[0] == parse_label(answer)[0]:
                wrong[parse_label(gold)[0]] += number
        rows = tuple(
            (name, one.precision, one.recall, one.f1, one.gold, one.predicted, wrong[name])
            for name, one in relations.items()
        )
        columns = ("relation", "precision", "recall", "F1", "gold pairs", "predicted pairs", "wrong direction")
        note = "A pair is right only if relation and direction are. Pairs without relation are in no row."
        return Table("Relations (relation and direction must be right)", columns, rows, note)

    def _charts(self) -> list[Chart]:
        names = [name for name in (*(name for _, name in FAR), FARTHEST) if name in self._by_distance]
        points = tuple((name, self._micro(self._by_distance[name]).f1) for name in names)
        note = "Micro-F1 of pairs with so many words between the two entities; higher is better."
        return (
            [Chart("F1 by distance", note, "words between the entities", (Series("F1", points),), "bar")]
            if points
            else []
        )


_MEANINGS = {
    "relation_f1_macro": "F1 of each relation, a wrong direction being wrong, averaged over relations: the official "
    "score of SemEval-2010 Task 8",
    "relation_f1_micro": "F1 of all pairs with a relation together",
    "relation_f1_undirected": "the macro-F1 if directions did not matter",
}


def _stretch(distance: int) -> str:
    return next((name for most, name in FAR if distance <= most), FARTHEST)


PLUGIN = Relations

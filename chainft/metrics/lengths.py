"""How long answers are beside what was wanted, and how scores change with the length of the source: for the report."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from chainft.metrics._written import Written
from chainft.metrics.base import ratio
from chainft.metrics.text import chrf
from chainft.tasks.base import Chart, Scores, Series, Table

if TYPE_CHECKING:
    from chainft.tasks._text_to_text import TextToText

RATIOS = (0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2.0)
"""Where stretches of predicted / expected words end."""
WORDS = (5, 10, 15, 20, 30, 50, 100, 200, 500)
"""The most words of a source in each stretch."""


class Lengths(Written):
    """Words, split at blanks, in counters of constant size. Of several references the nearest in length is expected."""

    needs_scores: ClassVar[bool] = True

    def __init__(self) -> None:
        self._keys = ("source", "target")
        self._predicted = self._expected = 0
        self._ratios = [0] * (len(RATIOS) + 1)
        self._by_words = [[0.0, 0.0] for _ in range(len(WORDS) + 1)]
        """Sum of chrF and number of texts in each stretch of source lengths."""

    def fit(self, task: TextToText) -> None:
        self._keys = (task.source_field.name, task.answer)

    def update(self, gold: Sequence[str], predicted: Mapping[str, Any]) -> None:
        """`predicted`: the whole prediction, which has the source."""
        source, answer = predicted[self._keys[0]], predicted[self._keys[1]]
        if answer is None:
            return
        given = len(answer.split())
        wanted = min((len(one.split()) for one in gold), key=lambda length: (abs(length - given), length))
        self._predicted, self._expected = self._predicted + given, self._expected + wanted
        self._ratios[bisect_right(RATIOS, ratio(given, wanted))] += 1
        length = len((source if isinstance(source, str) else " ".join(source)).split())
        entry = self._by_words[sum(length > most for most in WORDS)]
        entry[0] += max(chrf(one, answer) for one in gold)
        entry[1] += 1

    def compute(self) -> Scores:
        if not sum(self._ratios):
            return Scores({})
        row = ("words", self._predicted, self._expected, ratio(self._predicted, self._expected))
        return Scores(
            {},
            tables=(Table("length of answers", ("predicted", "expected", "ratio"), (row,)),),
            charts=(self._histogram(), self._by_length()),
        )

    def _histogram(self) -> Chart:
        names = _stretches(("0", *map(_short, RATIOS)))
        points = tuple((name, float(count)) for name, count in zip(names, self._ratios, strict=True))
        note = "How many answers are so much longer or shorter than expected; those around 1 have the right length."
        return Chart("Length ratio", note, "predicted / expected words", (Series("answers", points),), "bar")

    def _by_length(self) -> Chart:
        starts = ("1", *(str(most + 1) for most in WORDS))
        ends = (*map(str, WORDS), "")
        points = tuple(
            (f"{start}–{end}", total / count)
            for start, end, (total, count) in zip(starts, ends, self._by_words, strict=True)
            if count
        )
        note = "Mean chrF of the answers to sources of so many words: more is better. A fall to the right says that long sources are harder."
        return Chart("Score by source length", note, "words of the source", (Series("chrF", points),), "bar")


def _stretches(starts: Sequence[str]) -> list[str]:
    return [f"{start}–{end}" for start, end in zip(starts, (*starts[1:], ""), strict=True)]


def _short(value: float) -> str:
    return f"{value:g}"


PLUGIN = Lengths

"""How varied and how long answers are.

Distinct-n: J. Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", NAACL 2016: the
number of different n-grams of all generated answers, divided by the number of their words.
"""

from __future__ import annotations

from collections.abc import Sequence

from chainft.metrics._written import Written
from chainft.metrics.base import ratio
from chainft.tasks.base import Scores, Table


class Diversity(Written):
    """Words are what stands between blanks, case folded; of several right answers the first is the wanted one.

    Memory grows with the number of different n-grams only.
    """

    def __init__(self) -> None:
        self._given, self._wanted = _Words(), _Words()

    def update(self, gold: Sequence[str], predicted: str) -> None:
        self._given.add(predicted)
        self._wanted.add(gold[0])

    def compute(self) -> Scores:
        """`distinct_1` and `distinct_2` of the answers, and their words per word of the wanted ones."""
        given, wanted = self._given, self._wanted
        rows = tuple(
            (name, words.distinct(1), words.distinct(2), ratio(words.count, words.texts))
            for name, words in (("generated", given), ("wanted", wanted))
        )
        note = (
            "Distinct-n: different rows of n words per word; low beside that of the wanted answers: it repeats itself."
        )
        return Scores(
            {
                "distinct_1": given.distinct(1),
                "distinct_2": given.distinct(2),
                "length_ratio": ratio(given.count, wanted.count),
            },
            tables=(Table("variety of answers", ("answers", "distinct-1", "distinct-2", "words"), rows, note),),
            meanings={
                "distinct_1": "different words per word of all answers: 1 would be never the same word twice",
                "distinct_2": "different pairs of neighbouring words per word of all answers",
                "length_ratio": "words of the answers per word of the wanted ones: 1 is the right length",
            },
        )


class _Words:
    """The words of many texts."""

    def __init__(self) -> None:
        self.texts = 0
        self.count = 0
        self._seen: dict[int, set[tuple[str, ...]]] = {1: set(), 2: set()}

    def add(self, text: str) -> None:
        words = text.casefold().split()
        self.texts += 1
        self.count += len(words)
        for size, seen in self._seen.items():
            seen.update(tuple(words[start : start + size]) for start in range(len(words) - size + 1))

    def distinct(self, size: int) -> float:
        return ratio(len(self._seen[size]), self.count)


PLUGIN = Diversity

"""Corpus scores of the package sacreBLEU, from sums of its counts: no text is kept.

M. Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018. A corpus score is a function of the sums of the
statistics of its segments; `corpus_score` of the package keeps those of each segment, here only the sums stay.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

from chainft.metrics._written import Written, need
from chainft.tasks.base import Scores, Table


class SacreBleu(Written):
    """Sums of one of the package's metrics."""

    name: ClassVar[str]
    """Of the value; from 0 to 1, where the package prints 0 to 100."""
    words: ClassVar[str]

    def __init__(self) -> None:
        need("sacrebleu", self.name)
        self._sums: list[float] | None = None
        self._num_references: set[int] = set()

    @abstractmethod
    def make(self) -> Any:
        """The package's metric."""

    @cached_property
    def _metric(self) -> Any:
        return self.make()

    def update(self, gold: Sequence[str], predicted: str) -> None:
        self._num_references.add(len(gold))
        # Of the package's own class, as `sentence_score` calls it; tests hold the sums to `corpus_score`.
        (found,) = self._metric._extract_corpus_statistics([predicted], [[one] for one in gold])
        sums = self._sums or [0] * len(found)
        self._sums = [total + one for total, one in zip(sums, found, strict=True)]

    def compute(self) -> Scores:
        """The score, and the signature that says how it was computed."""
        if self._sums is None:
            return Scores({self.name: 0.0})
        score = self._metric._compute_score_from_stats(self._sums)
        signature = self.signature()
        return Scores(
            {self.name: min(score.score / 100, 1.0)},  # The package gives 100.00000000000004 for a perfect one.
            tables=(
                Table(f"sacreBLEU: {self.name}", ("score x 100", "signature"), ((self.name, score.score, signature),)),
            ),
            meanings={self.name: f"{self.words}; sacreBLEU {signature}"},
        )

    def signature(self) -> str:
        """As the package prints it."""
        numbers = sorted(self._num_references)
        self._metric.num_refs = numbers[0] if len(numbers) == 1 else -1  # It knows those of its last call only.
        return str(self._metric.get_signature().format())

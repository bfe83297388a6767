"""Generated Python against the reference, without running it: same code, chrF, and whether it parses at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from chainft.metrics.base import Counts, ratio
from chainft.metrics.text import ORDER, f_score, ngram_counts
from chainft.tasks.base import Metric, Scores
from chainft.text.python_code import parsed, same_code

if TYPE_CHECKING:
    from chainft.tasks._code_tests import Samples, Wanted


class CodeText(Metric):
    """Counts pairs of programs in constant memory; of several answers the first."""

    family: ClassVar[Literal["code"]] = "code"

    def __init__(self) -> None:
        self._programs = 0
        self._exact = 0
        self._broken = 0
        self._ngrams = [Counts(0, 0, 0)] * ORDER

    def update(self, gold: Wanted, predicted: Samples) -> None:
        self._programs += 1
        self._exact += same_code(gold["program"], predicted.program)
        self._broken += parsed(predicted.program) is None
        found = ngram_counts(gold["solution"], predicted.answer)
        self._ngrams = [total.plus(one) for total, one in zip(self._ngrams, found, strict=True)]

    def compute(self) -> Scores:
        """`exact_match` disregards formatting, comments and docstrings; `chrf` is of the corpus of answers."""
        return Scores(
            {
                "chrf": f_score(self._ngrams),
                "exact_match": ratio(self._exact, self._programs),
                "syntax_error_rate": ratio(self._broken, self._programs),
            },
            meanings={
                "exact_match": "share of answers whose syntax tree is that of the solution, docstrings left out",
                "syntax_error_rate": "share of answers that are no Python with their prompt; less is better",
            },
        )


PLUGIN = CodeText

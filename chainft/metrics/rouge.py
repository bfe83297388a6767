"""ROUGE of summaries as the package rouge-score computes it (C.-Y. Lin, "ROUGE", 2004): means over examples.

Of several references the best counts, for each kind by itself. `rougeLsum` compares sentence by sentence: a line is a
sentence where a text has line ends, else `chainft.text.sentences` tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from chainft.metrics._written import Written, need
from chainft.metrics.base import ratio
from chainft.tasks.base import Scores, Table
from chainft.text.sentences import sentences

if TYPE_CHECKING:
    from chainft.tasks._text_to_text import TextToText

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_WORDS = {
    "rouge1": "overlap with the right summary in single words",
    "rouge2": "overlap with the right summary in pairs of words",
    "rougeL": "the longest row of words in common with the right summary, gaps allowed",
    "rougeLsum": "the longest rows of words in common with the right summary, sentence by sentence",
}


class Rouge(Written):
    """Sums of precision, recall and F1 of each kind."""

    def __init__(self) -> None:
        need("rouge_score", "rouge")
        self.any_language = False
        self._count = 0
        self._sums = {kind: [0.0, 0.0, 0.0] for kind in KINDS}

    def fit(self, task: TextToText) -> None:
        """`rouge_tokenizer` of the task's settings: english (of the package, stemmed) or unicode."""
        self.any_language = getattr(task.config, "rouge_tokenizer", "english") == "unicode"

    @cached_property
    def _scorer(self) -> Any:
        from rouge_score.rouge_scorer import RougeScorer

        return RougeScorer(list(KINDS), use_stemmer=True, tokenizer=_AnyLanguage() if self.any_language else None)

    def update(self, gold: Sequence[str], predicted: str) -> None:
        found = self._scorer.score_multi([as_lines(one) for one in gold], as_lines(predicted))
        self._count += 1
        for kind, sums in self._sums.items():
            one = found[kind]
            for place, value in enumerate((one.precision, one.recall, one.fmeasure)):
                sums[place] += value

    def compute(self) -> Scores:
        """F1 of each kind, mean over examples, from 0 to 1."""
        means = {kind: [ratio(total, self._count) for total in sums] for kind, sums in self._sums.items()}
        values = {kind: found[2] for kind, found in means.items()}
        if not self._count:
            return Scores(values)
        how = (
            f"rouge-score {version('rouge-score')}, {'words of any script' if self.any_language else 'Porter stemmer'}"
        )
        rows = tuple((kind, found[0], found[1], found[2]) for kind, found in means.items())
        return Scores(
            values,
            tables=(Table(f"ROUGE, mean over texts ({how})", ("precision", "recall", "f1"), rows),),
            meanings={kind: f"{words}; {how}" for kind, words in _WORDS.items()},
        )


def as_lines(text: str) -> str:
    """A sentence a line."""
    return "\n".join(sentences(text))


class _AnyLanguage:
    """Splits words of any script, where the package's tokenizer knows ASCII letters only."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.casefold())


PLUGIN = Rouge

"""Generated texts against the wanted ones: exact match, chrF and ROUGE-L, all from 0 to 1.

chrF: M. Popović, "chrF: character n-gram F-score for automatic MT evaluation", WMT 2015. Here chrF2: n-grams
of 1 to 6 characters without white space, recall weighs twice as much as precision, n-grams are counted over the
whole corpus; sacreBLEU's default (which prints it times 100) is the same. ROUGE-L: C.-Y. Lin, "ROUGE: A Package
for Automatic Evaluation of Summaries", 2004: F1 of the longest common subsequence of words, mean over texts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from chainft.metrics.base import Counts, mean, ratio
from chainft.tasks.base import Metric, Scores

ORDER = 6
"""Longest character n-gram of chrF."""
BETA = 2.0
"""How much more recall weighs than precision in chrF."""
_WORD = re.compile(r"\w+")


class Text(Metric):
    """Counts pairs of texts in constant memory."""

    family: ClassVar[Literal["text"]] = "text"

    def __init__(self) -> None:
        self._texts = 0
        self._exact = 0
        self._rouge_sum = 0.0
        self._ngrams = [Counts(0, 0, 0)] * ORDER

    def update(self, gold: str, predicted: str) -> None:
        self._texts += 1
        self._exact += gold.split() == predicted.split()
        self._rouge_sum += rouge_l(gold, predicted)
        self._ngrams = [sum_.plus(one) for sum_, one in zip(self._ngrams, ngram_counts(gold, predicted), strict=True)]

    def compute(self) -> Scores:
        """`exact_match` disregards how words are spaced; `chrf` is of the corpus, `rouge_l` the mean over texts."""
        return Scores(
            {
                "chrf": f_score(self._ngrams),
                "rouge_l": ratio(self._rouge_sum, self._texts),
                "exact_match": ratio(self._exact, self._texts),
            }
        )


def ngram_counts(gold: str, predicted: str) -> list[Counts]:
    """For n = 1 to 6 the character n-grams in common, of the prediction, and of the gold text."""
    wanted, given = "".join(gold.split()), "".join(predicted.split())
    counts = []
    for n in range(1, ORDER + 1):
        gold_ngrams, given_ngrams = _ngrams(wanted, n), _ngrams(given, n)
        # Like sacreBLEU: where the gold text is too short for n-grams, the prediction's do not count.
        size = given_ngrams.total() if gold_ngrams else 0
        counts.append(Counts((gold_ngrams & given_ngrams).total(), size, gold_ngrams.total()))
    return counts


def f_score(ngrams: Sequence[Counts]) -> float:
    """chrF from n-gram counts: precision and recall are means over the orders that both sides have."""
    both = [count for count in ngrams if count.predicted and count.gold]
    precision, recall = mean(count.precision for count in both), mean(count.recall for count in both)
    return ratio((1 + BETA**2) * precision * recall, BETA**2 * precision + recall)


def chrf(gold: str, predicted: str) -> float:
    """chrF2 of one text."""
    return f_score(ngram_counts(gold, predicted))


def rouge_l(gold: str, predicted: str) -> float:
    """F1 of the longest common subsequence of words, case folded.

    >>> rouge_l("the cat sat on the mat", "the cat on a mat")
    0.7272727272727273
    """
    wanted, given = _WORD.findall(gold.casefold()), _WORD.findall(predicted.casefold())
    return Counts(common_subsequence(wanted, given), len(given), len(wanted)).f1


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by Hyyrö's bit-parallel method (2004): a bit for each of `first`."""
    places: dict[str, int] = {}
    for position, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << position
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        match = row & places.get(word, 0)
        row = ((row + match) | (row - match)) & full
    return len(first) - row.bit_count()


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[start : start + n] for start in range(len(text) - n + 1))


PLUGIN = Text

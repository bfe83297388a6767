"""BM25: how well short documents match a question by their words.

S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, equation 3.15, with
idf = ln(1 + (N - n + 0.5) / (n + 0.5)), which unlike theirs is never negative for words that most documents have.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

K1, B = 1.2, 0.75
"""Within the ranges that they found good: how fast more of a word counts no more, how much length counts."""
_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Words, case folded.

    >>> words_of("The shop's Café")
    ['the', 'shop', 's', 'café']
    """
    return _WORD.findall(text.casefold())


class BM25:
    """An index of documents."""

    def __init__(self, documents: Sequence[str]) -> None:
        counts = [Counter(words_of(text)) for text in documents]
        lengths = [count.total() for count in counts]
        mean = sum(lengths) / len(lengths) if sum(lengths) else 1.0
        self._norms = [K1 * (1 - B + B * length / mean) for length in lengths]
        self._postings: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, count in enumerate(counts):
            for word, times in count.items():
                self._postings[word].append((number, times))

    def search(self, question: str, count: int) -> list[tuple[int, float]]:
        """The `count` best documents with a word of the question, best first: number and score. Equal ones in order."""
        scores: defaultdict[int, float] = defaultdict(float)
        for word, asked in Counter(words_of(question)).items():
            found = self._postings.get(word, ())
            idf = math.log(1 + (len(self._norms) - len(found) + 0.5) / (len(found) + 0.5))
            for number, times in found:
                scores[number] += asked * idf * times * (K1 + 1) / (times + self._norms[number])
        return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:count]

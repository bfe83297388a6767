"""The names that training data hold: what finding entities reaches by looking them up.

The baseline of the CoNLL shared tasks (Tjong Kim Sang & De Meulder, 2003): every stretch of words that is an entity
of only one type in training is taken for one, the longest first. Words count as they are written.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from chainft.text.schemes import Span, spans_of, tags_of


class Lexicon:
    """Entities of one type by their words."""

    def __init__(self, sentences: Iterable[tuple[Sequence[str], Sequence[str]]]) -> None:
        """From (words, tags in any scheme) of each sentence."""
        types: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for words, tags in sentences:
            for span in spans_of(tags):
                types[tuple(words[span.start : span.end])][span.type] += 1
        self._types = {words: next(iter(counts)) for words, counts in types.items() if len(counts) == 1}
        self._longest = max(map(len, self._types), default=0)

    def tags(self, words: Sequence[str]) -> list[str]:
        """IOB2 tags: at each word, from the left, the longest entity that is known to begin there.

        >>> Lexicon([(["New", "York", "City"], ["B-LOC", "I-LOC", "O"])]).tags(["in", "New", "York"])
        ['O', 'B-LOC', 'I-LOC']
        """
        spans: list[Span] = []
        at = 0
        while at < len(words):
            found = self._longest_at(words, at)
            if found:
                spans.append(found)
            at = found.end if found else at + 1
        return tags_of(spans, len(words))

    def _longest_at(self, words: Sequence[str], start: int) -> Span | None:
        for end in range(min(start + self._longest, len(words)), start, -1):
            kind = self._types.get(tuple(words[start:end]))
            if kind is not None:
                return Span(start, end, kind)
        return None

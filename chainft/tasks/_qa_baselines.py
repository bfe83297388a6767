"""Answers by counting words, which a trained model must beat.

`window`: the sliding window of Richardson et al. 2013 (MCTest, baseline SW) and Rajpurkar et al. 2016 (section 5.1): the
stretch whose surroundings share most with the question, words weighed by how rare they are. They let it choose among
constituents of parsed sentences; here among runs of rare words that are not in the question.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from chainft.data.example import Example
from chainft.tasks.base import Baseline
from chainft.text.scripts import words

AROUND = 5
"""Words on either side of a stretch that may be shared with the question."""
MOST_WORDS = 6
FREQUENT = 0.3
"""Words that stand in more of the contexts than this are no answer by themselves."""
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+|(?<=[。！？])|\n+")

Places = Sequence[tuple[int, int]]


def guessers(contexts: Sequence[str], *, may_abstain: bool) -> Mapping[str, Baseline]:
    """By name; how rare words are is learned from `contexts`, those of training."""
    rarity = _Rarity(dict.fromkeys(contexts))
    found: dict[str, Baseline] = {
        "first_sentence": lambda one: _text(one, next(_sentences(one.values["context"]), (0, 0))),
        "best_sentence": lambda one: _text(one, rarity.best_sentence(**_given(one))),
        "window": lambda one: _text(one, rarity.best_stretch(**_given(one))),
    }
    return found | ({"no_answer": lambda one: ""} if may_abstain else {})


def _given(example: Example) -> dict[str, str]:
    return {name: example.values[name] for name in ("question", "context")}


def _text(example: Example, place: tuple[int, int]) -> str:
    return str(example.values["context"][place[0] : place[1]]).strip()


class _Rarity:
    """What a shared word counts: log(1 + contexts / contexts that have it)."""

    def __init__(self, contexts: Mapping[str, None]) -> None:
        self._contexts = len(contexts)
        self._having = Counter(word for text in contexts for word in set(_words(text)))

    def best_sentence(self, question: str, context: str) -> tuple[int, int]:
        """The first sentence whose words that are in the question count most."""
        asked = set(_words(question))
        sentences = list(_sentences(context)) or [(0, 0)]
        return max(sentences, key=lambda place: self._count(asked & set(_words(context[place[0] : place[1]]))))

    def best_stretch(self, question: str, context: str) -> tuple[int, int]:
        """The first stretch of at most `MOST_WORDS` words around which those of the question count most."""
        asked = set(_words(question))
        places = words(context)
        texts = [context[start:end].lower() for start, end in places]
        best, most = None, -1.0
        for first, last in self._runs(texts, asked, places, context):
            near = asked & {*texts[max(0, first - AROUND) : first], *texts[last + 1 : last + 1 + AROUND]}
            if (count := self._count(near)) > most:
                best, most = (places[first][0], places[last][1]), count
        return best or self.best_sentence(question, context)

    def _runs(self, texts: Sequence[str], asked: set[str], places: Places, context: str) -> Iterator[tuple[int, int]]:
        """First and last word of each longest run of words that may be an answer, cut at punctuation."""
        first = None
        for number, word in enumerate(texts):
            fits = word not in asked and self._having[word] <= FREQUENT * self._contexts
            glued = first is not None and not context[places[number - 1][1] : places[number][0]].strip()
            if first is not None and not (fits and glued and number - first < MOST_WORDS):
                yield first, number - 1
                first = None
            if first is None and fits:
                first = number
        if first is not None:
            yield first, len(texts) - 1

    def _count(self, shared: set[str]) -> float:
        return math.fsum(math.log1p(self._contexts / max(1, self._having[word])) for word in sorted(shared))


def _words(text: str) -> list[str]:
    return [text[start:end].lower() for start, end in words(text)]


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """Start and end of each sentence; an end is guessed at a mark before a blank."""
    start = 0
    for found in _SENTENCE_END.finditer(text):
        if text[start : found.start()].strip():
            yield start, found.start()
        start = found.end()
    if text[start:].strip():
        yield start, len(text)

"""Exact match and F1 of answers, as the evaluation of SQuAD v1.1 and v2.0 counts them, from 0 to 1 instead of to 100.

Each is the mean over questions of the best over the gold answers of a question. Where some questions have no answer,
both are also told for those that have one and for those that have none.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from chainft.metrics.base import ratio
from chainft.tasks.base import Chart, Metric, Scores, Series, Table
from chainft.text.same_answers import best_of, parts_of

_LENGTHS = (0, 250, 500, 750, 1000, 1500, 2000, 3000, 5000)
"""Characters from which a class of contexts begins."""
_LONGEST = 15
"""Longer answers are drawn as this long."""
_FEWEST = 5
"""Of fewer questions, no mean is drawn."""
_QUESTION_WORDS: Mapping[str, str] = {
    "who": "who", "whom": "who", "whose": "who", "what": "what", "which": "which", "when": "when", "where": "where",
    "why": "why", "how": "how",
}  # fmt: skip
_WORD = re.compile(r"\w+")
_OTHER = "other"


_NOTE = "Counts questions."


@dataclass
class _Tally:
    """Sums over questions."""

    questions: int = 0
    exact: float = 0.0
    f1: float = 0.0

    def add(self, exact: float, f1: float) -> None:
        self.questions += 1
        self.exact += exact
        self.f1 += f1

    @property
    def rates(self) -> tuple[float, float, int]:
        """Mean exact match and F1, and the number of questions."""
        return ratio(self.exact, self.questions), ratio(self.f1, self.questions), self.questions


class Squad(Metric):
    """Counts answers; an empty one says that there is none."""

    family: ClassVar[Literal["answer"]] = "answer"

    def __init__(self) -> None:
        self._all = _Tally()
        self._answered: dict[bool, _Tally] = {True: _Tally(), False: _Tally()}
        """By whether the question has an answer."""
        self._words: defaultdict[str, _Tally] = defaultdict(_Tally)
        self._lengths: defaultdict[int, _Tally] = defaultdict(_Tally)
        self._sizes: dict[str, Counter[int]] = {"gold": Counter(), "predicted": Counter()}

    def update(self, gold: Mapping[str, Any], predicted: str) -> None:
        """`gold`: `question`, `answers` (texts), `context_length` (characters) and `compared` (words or characters)."""
        compared, answers = gold["compared"], gold["answers"]
        exact, f1 = best_of(answers, predicted, compared)
        size = bisect_right(_LENGTHS, gold["context_length"]) - 1
        tallies = (self._all, self._answered[bool(answers)], self._words[question_word(gold["question"])])
        for tally in (*tallies, self._lengths[size]):
            tally.add(exact, f1)
        for name, text in (("gold", answers[0] if answers else ""), ("predicted", predicted)):
            self._sizes[name][min(len(parts_of(text, compared)), _LONGEST)] += 1

    def compute(self) -> Scores:
        """The rates of all questions; of those with and without an answer where there are both (or no questions)."""
        exact, f1, count = self._all.rates
        values = {"exact_match": exact, "answer_f1": f1}
        rows: list[tuple[str | float | int | None, ...]] = []
        with_answer, without = self._answered[True].rates, self._answered[False].rates
        if without[2] or not count:
            values |= {"has_answer_exact_match": with_answer[0], "has_answer_f1": with_answer[1]}
            values["no_answer_accuracy"] = without[0]
            rows = [("with an answer", *with_answer), ("without an answer", *without)]
        rows.append(("all", exact, f1, count))
        tables = [Table("Questions", ("", "exact match", "F1", "questions"), tuple(rows), _NOTE)]
        words = sorted(self._words, key=lambda word: (word == _OTHER, -self._words[word].questions, word))
        if words != [_OTHER]:
            kinds = tuple((word, *self._words[word].rates) for word in words)
            tables.append(Table("By question word", ("question word", "exact match", "F1", "questions"), kinds, _NOTE))
        return Scores(values, tuple(tables), charts=tuple(self._charts(words)), meanings=_MEANINGS)

    def _charts(self, words: Iterable[str]) -> Iterable[Chart]:
        means = tuple((word, self._words[word].rates[1]) for word in words if self._words[word].questions >= _FEWEST)
        note = (
            f"Mean F1 of the answers to questions with each word; higher is better. At least {_FEWEST} questions each."
        )
        if means and words != [_OTHER]:
            yield Chart("F1 by question word", note, "question word", (Series("F1", means),), "bar")
        kept = sorted(size for size, tally in self._lengths.items() if tally.questions >= _FEWEST)
        if len(kept) > 1:
            bars = tuple((_stretch(size), self._lengths[size].rates[1]) for size in kept)
            note = f"Mean F1 by how long the context is; higher is better. At least {_FEWEST} questions each."
            yield Chart("F1 by length of the context", note, "characters of the context", (Series("F1", bars),), "bar")
        if self._all.questions:
            yield _histogram(self._sizes)


def question_word(question: str) -> str:
    """The first English question word of a question, else `other`.

    >>> question_word("In which year did Ada arrive?"), question_word("Wo liegt Oslo?")
    ('which', 'other')
    """
    words = (_QUESTION_WORDS.get(word) for word in _WORD.findall(question.lower()))
    return next((word for word in words if word), _OTHER)


def _stretch(size: int) -> str:
    return f"{_LENGTHS[size]}-{_LENGTHS[size + 1] - 1}" if size + 1 < len(_LENGTHS) else f"from {_LENGTHS[size]}"


def _histogram(sizes: Mapping[str, Counter[int]]) -> Chart:
    longest = max((size for counts in sizes.values() for size in counts), default=0)
    series = tuple(
        Series(name, tuple((float(size), float(counts[size])) for size in range(longest + 1)))
        for name, counts in sizes.items()
    )
    note = (
        "How many answers have how many words (characters in Chinese and its like), without articles; 0: no answer. "
        f"The curves should lie on each other. {_LONGEST} stands for all that are longer."
    )
    return Chart("Length of answers", note, "words", series)


_MEANINGS: Mapping[str, str] = {
    "exact_match": "share of questions whose answer is one of the gold answers, case, punctuation and articles aside",
    "answer_f1": "words that the answer and the nearest gold answer have in common (balance of precision and recall), "
    "mean over questions",
    "has_answer_exact_match": "exact match of the questions that have an answer",
    "has_answer_f1": "F1 of the questions that have an answer",
    "no_answer_accuracy": "share of the questions without an answer of which the model says so",
}

PLUGIN = Squad

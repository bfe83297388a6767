"""Answers to questions as data hold them: their texts, and where in the context these stand, checked.

What data may say is, for one answer or several: a text that stands in the context once; a text with `answer_start`;
or the two lists `{"text": [...], "answer_start": [...]}` of the Hugging Face data set of SQuAD. In tables such values
are JSON. Nothing, an empty text or an empty list, says that the context holds no answer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chainft.data.example import Example
from chainft.errors import DataError, Problem

_FORMS = 'give the answer\'s text, or {"text": ["..."], "answer_start": [0]}; [] for a question without an answer'


@dataclass(frozen=True, slots=True)
class Answer:
    """A stretch of the context."""

    text: str
    start: int
    """Its first character."""

    @property
    def end(self) -> int:
        """The character after it."""
        return self.start + len(self.text)


@dataclass
class Found:
    """The answers of a question, and what is wrong with them."""

    answers: list[Answer] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def answers_of(example: Example) -> tuple[Answer, ...]:
    """The answers of an example: the most frequent first, of equally frequent ones the first; one a gold answer given.

    Raises DataError for what `find_answers` finds wrong.
    """
    found = find_answers(example)
    if found.problems:
        raise DataError.of(found.problems)
    counts = Counter(found.answers)
    return tuple(sorted(found.answers, key=lambda answer: -counts[answer]))


def find_answers(example: Example) -> Found:
    """What the values `answers`, `answer_start` and `context` of an example say."""
    reader = _Reader(example.values["context"], example.where())
    reader.read(example.values.get("answers"), example.values.get("answer_start"))
    return reader.found


class _Reader:
    def __init__(self, context: str, where: str) -> None:
        self.context = context
        self.where = where
        self.found = Found()

    def read(self, value: Any, start: Any) -> None:
        value, start = _from_json(value, self.context), None if start == "" else start
        texts, starts = value, start
        if isinstance(value, Mapping) and start is None:
            texts, starts = value.get("text"), value.get("answer_start")
        elif isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value) and start is None:
            texts, starts = [one.get("text") for one in value], [one.get("answer_start") for one in value]
        if texts == "" and starts in (None, []):
            return
        texts = [texts] if isinstance(texts, str) else texts
        starts = [None] * len(texts) if starts is None and isinstance(texts, list) else starts
        starts = starts if isinstance(starts, list) else [starts]
        if not isinstance(texts, list) or len(texts) != len(starts):
            self._wrong("wrong-type", f"answers are not understood: {_short(value)}", _FORMS)
            return
        for text, place in zip(texts, starts, strict=True):
            self._take(text, place)

    def _take(self, text: Any, start: Any) -> None:
        """One answer; `start` None: it must stand in the context once."""
        if isinstance(start, str) and start.strip().isdecimal():
            start = int(start)
        if not isinstance(text, str) or not (start is None or type(start) is int):
            self._wrong("wrong-type", f"an answer is a text and a whole number, got {_short([text, start])}", _FORMS)
        elif not text.strip():
            self._wrong(
                "empty-answer", f"an answer is empty ({text!r})", "a question without an answer has answers []"
            )
        elif start is None:
            self._locate(text)
        elif self.context[max(start, 0) : max(start, 0) + len(text)] == text and start >= 0:
            self.found.answers.append(Answer(text, start))
        else:
            self._misplaced(text, start)

    def _locate(self, text: str) -> None:
        places = _places(text, self.context)
        if len(places) == 1:
            self.found.answers.append(Answer(text, places[0]))
        elif places:
            self._wrong(
                "ambiguous-answer",
                f"the answer {_short(text)} stands {len(places)} times in the context",
                f"say which one by answer_start, the number of its first character: {_listed(places)}",
            )
        else:
            self._absent(text)

    def _misplaced(self, text: str, start: int) -> None:
        places = _places(text, self.context)
        if not places:
            self._absent(text)
            return
        if start < 0 or start + len(text) > len(self.context):
            slug, there = "outside-context", f"the context has the characters 0 to {len(self.context) - 1}"
        else:
            slug, there = "wrong-offset", f"there stands {_short(self.context[start : start + len(text)])}"
        near = min(places, key=lambda place: abs(place - start))
        others = f" (of {len(places)} places, the nearest)" if len(places) > 1 else ""
        message = f"the answer {_short(text)} is not at answer_start {start}: {there}"
        self._wrong(slug, message, f"it stands at {near}{others}; characters count from 0")

    def _absent(self, text: str) -> None:
        folded = self.context.casefold().find(text.casefold())
        help = "the answer must be a literal part of the context, else leave the row out by data.on_error=skip"
        if folded >= 0 and len(self.context.casefold()) == len(self.context):
            help = f"in other case there is {_short(self.context[folded : folded + len(text)])} at {folded}"
        self._wrong("answer-not-in-context", f"the answer {_short(text)} is not in the context", help)

    def _wrong(self, slug: str, message: str, help: str) -> None:
        self.found.problems.append(Problem(slug, message, self.where, help=help))


def _from_json(value: Any, context: str) -> Any:
    """The value that a cell of a table holds as JSON; a text that is none, or stands in the context, as it is."""
    if not isinstance(value, str) or value.strip()[:1] not in ("{", "[") or value in context:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _places(text: str, context: str) -> list[int]:
    places = []
    place = context.find(text)
    while place >= 0:
        places.append(place)
        place = context.find(text, place + 1)
    return places


def _listed(places: Sequence[int], most: int = 5) -> str:
    return ", ".join(map(str, places[:most])) + (", ..." if len(places) > most else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Questions with contexts as data and users bring them, checked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from chainft.data.example import Example
from chainft.errors import DataError, Problem
from chainft.tasks.base import Field
from chainft.text.inputs import checked_text, take, text_example, text_problems

QUESTION = Field("question", "text", aliases=("query",))
CONTEXT = Field("context", "text", aliases=("passage", "paragraph"))
SAMPLE = {"question": "Where did Ada Lovelace live?", "context": "Ada Lovelace was born in 1815 and lived in London."}


def given_problems(values: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """What keeps question and context from being read."""
    for name in (QUESTION.name, CONTEXT.name):
        wrong = list(text_problems(values[name], name, where))
        if not wrong and not values[name].strip():
            wrong = [Problem(f"empty-{name}", f"the {name} is empty", where, help="write it, or leave the row out")]
        yield from wrong


def read_question(value: str | Mapping[str, Any], *, where: str) -> Example:
    """From an object with `question` and `context`, or such an object as a line of JSON. Raises DataError at `where`."""
    values = _object(value, where) if isinstance(value, str) else value
    texts = {}
    for field in (QUESTION, CONTEXT):
        texts[field.name] = checked_text(
            take(values, (field.name, *field.aliases), where=where), field.name, where=where
        )
    if wrong := list(given_problems(texts, where)):
        raise DataError.of(wrong)
    return text_example(texts, where)


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line) if line.lstrip().startswith("{") else None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not a JSON object: {error}", slug="bad-json", where=where) from error
    if isinstance(value, dict):
        return value
    raise DataError(
        "a line of text is not enough: a question needs the context in which its answer is to be found",
        slug="no-context",
        where=where,
        help=f"give a JSON object: {json.dumps(SAMPLE)}",
    )

"""SQuAD JSON, v1.1 and v2.0: articles with paragraphs, and for each paragraph questions with their answers.

Rajpurkar et al. 2016 (arXiv:1606.05250) and 2018 (arXiv:1806.03822). A row is a question with its context; what
marks a question without an answer is an empty list of answers. The file is held in memory while it is read.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, ClassVar

from chainft.config.run import DataConfig
from chainft.data.example import Example, Origin
from chainft.data.files import decode_lines, open_bytes, suffix_of
from chainft.data.sources.base import Source
from chainft.data.zipped import open_zipped
from chainft.errors import DataError, Problem


@dataclass(frozen=True, kw_only=True)
class SquadConfig(DataConfig):
    """Files of the SQuAD format: `.json`, `.json.gz`, or a `.zip` with one `.json` in it."""


class SquadSource(Source):
    """Reads questions in the order of the file, with the columns question, context, answers, id and title."""

    config_class = SquadConfig
    endings: ClassVar[tuple[str, ...]] = (".zip",)
    reads_files: ClassVar[bool] = True
    config: SquadConfig

    def read(self, file: str) -> Iterator[Example | Problem]:
        text = self._text(file)
        articles = _articles(_document(text, file), file, self.key_of(file))
        yield from _Rows(file, text).of_articles(articles)

    def column_names(self, file: str) -> tuple[str, ...]:
        return self._first_row_names(file)

    def _text(self, file: str) -> str:
        parts, wrong = [], []
        with self._open(file) as data:
            for line in decode_lines(data, file, encoding=self.config.encoding, key=self.key_of(file)):
                parts.append(line.text + line.end)
                wrong += [line.problem] if line.problem else []
        if wrong:
            raise DataError.of(wrong)
        return "".join(parts)

    def _open(self, file: str) -> AbstractContextManager[BinaryIO]:
        if suffix_of(file) == ".zip":
            return open_zipped(file, ending=".json", key=self.key_of(file))
        return open_bytes(file, key=self.key_of(file))


_ID = re.compile(r'"id"\s*:\s*("(?:[^"\\]|\\.)*"|\d+)')
"""Inside of a text the quotation marks around such a key would be escaped."""
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HELP = (
    'SQuAD JSON is {"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [...]}]}]}; other rows: data=jsonl'
)


class _Rows:
    """Makes rows of the parts of a document and tells where these stand."""

    def __init__(self, file: str, text: str) -> None:
        self._everywhere = Origin(file, 0 if "\n" in text.rstrip() else 1)
        self._lines = _lines_of_ids(text)
        self._escaped = _SURROGATE.search(text) is not None

    def of_articles(self, articles: list[Any]) -> Iterator[Example | Problem]:
        for number, article in enumerate(articles, start=1):
            here = replace(self._everywhere, part=f"article {number}")
            if not isinstance(article, dict) or not isinstance(article.get("paragraphs"), list):
                yield _unlike(here, "an article is an object with a list of 'paragraphs'", article)
            else:
                yield from self._of_article(article, here)

    def _of_article(self, article: Mapping[str, Any], origin: Origin) -> Iterator[Example | Problem]:
        title = article.get("title")
        name = f"article {title!r}" if isinstance(title, str) else origin.part
        for number, paragraph in enumerate(article["paragraphs"], start=1):
            here = replace(origin, part=f"{name}, paragraph {number}")
            if not _is_paragraph(paragraph):
                yield _unlike(here, "a paragraph is an object with a text 'context' and a list of 'qas'", paragraph)
                continue
            for place, question in enumerate(paragraph["qas"], start=1):
                yield self._row(question, {"context": paragraph["context"], "title": title}, here, place)

    def _row(self, question: Any, shared: Mapping[str, Any], origin: Origin, place: int) -> Example | Problem:
        """A question with its context; `place`: its number in the paragraph."""
        if not isinstance(question, dict) or "question" not in question:
            here = replace(origin, part=f"{origin.part}, question {place}")
            return _unlike(here, "a question is an object with 'question' and 'answers'", question)
        id = question.get("id")
        named = repr(id) if isinstance(id, str) else str(place)
        here = replace(origin, part=f"{origin.part}, question {named}", line=self._line_of(id))
        values = {**shared, "question": question["question"], "id": id}
        marked, answers = question.get("is_impossible"), question.get("answers")
        if answers is None and marked is True:
            answers = []
        if answers is not None:
            values["answers"] = answers
        if isinstance(marked, bool) and answers is not None and marked == bool(answers):
            message = f"is_impossible is {str(marked).lower()}, and there are {'' if answers else 'no '}answers"
            return Problem("contradiction", message, str(here), help="mend 'is_impossible' or 'answers'")
        if self._escaped and _has_lone_surrogate(values):
            return Problem("lone-surrogate", "an escape \\uD800..\\uDFFF stands alone: it is no character", str(here))
        return Example(values, here)

    def _line_of(self, id: Any) -> int:
        """That of the next question with this id; 0 where it has none and there are several lines."""
        there = self._lines.get(str(id))
        return there.popleft() if there else self._everywhere.line


def _lines_of_ids(text: str) -> Mapping[str, deque[int]]:
    """The line of each question by its id: Python's parser of JSON tells no places."""
    lines: dict[str, deque[int]] = defaultdict(deque)
    line, counted = 1, 0
    for found in _ID.finditer(text):
        line, counted = line + text.count("\n", counted, found.start()), found.start()
        lines[str(json.loads(found[1]))].append(line)
    return dict(lines)


def _is_paragraph(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("context"), str) and isinstance(value.get("qas"), list)


def _document(text: str, file: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        where = f"{file}:{error.lineno}:{error.colno}"
        raise DataError(f"not JSON: {error.msg}", slug="not-json", where=where) from None
    except RecursionError:
        raise DataError("brackets are nested too deeply", slug="bad-json", where=file) from None
    except ValueError as error:
        raise DataError(str(error), slug="bad-json", where=file) from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _articles(document: Any, file: str, key: str | None) -> list[Any]:
    articles = document.get("data") if isinstance(document, dict) else None
    if isinstance(articles, list):
        return articles
    names = ", ".join(map(repr, document)) if isinstance(document, dict) else ""
    there = f"an object with {names or 'nothing'}" if isinstance(document, dict) else type(document).__name__
    raise DataError(
        f"{file!r} is not SQuAD JSON: it holds {there}, and no list 'data'",
        slug="not-squad",
        where=file,
        key=key,
        help=_HELP,
    )


def _unlike(origin: Origin, wanted: str, found: Any) -> Problem:
    shown = f"one with {', '.join(map(repr, found))}" if isinstance(found, dict) else repr(found)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return Problem("not-squad", f"{wanted}, got {shown}", str(origin), help=_HELP)


def _has_lone_surrogate(values: Mapping[str, Any]) -> bool:
    try:
        json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


PLUGIN = SquadSource

"""JSON lines, one object a line; also a `.json` document that holds a list of objects (or lists) at its top or inside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from chainft.config.run import DataConfig
from chainft.data.example import Example, Origin
from chainft.data.files import PACKAGE_SCHEME
from chainft.data.lines import Line, read_lines, read_text
from chainft.data.sources.base import Source
from chainft.errors import DataError, Problem, did_you_mean

NAMED_ROWS = 100
"""The columns of a file are those of its first so many rows: JSON objects need not have the same keys."""
_BLANK = " \t\r\n"


@dataclass(frozen=True, kw_only=True)
class JsonlConfig(DataConfig):
    """One JSON object a line, or a `.json` file with a list of them.

    `file.json#part` names the list inside of a `.json` file (`#a.b`: nested). Rows that are lists have the columns
    0, 1, ... A column inside of an object has a dotted name: `data.columns.text=sentence.text`.
    """


class JsonlSource(Source):
    """Reads objects; the values inside of nested objects have dotted names."""

    config_class = JsonlConfig

    def column_names(self, file: str) -> tuple[str, ...]:
        names: dict[str, None] = {}
        rows = (row for row in self._rows(file) if not isinstance(row, Problem))
        for _, value in islice(rows, NAMED_ROWS):
            names.update(dict.fromkeys(_names(value)))
        if not names:
            raise DataError(f"{file!r} has no rows", slug="empty-file", where=file)
        return tuple(names)

    def read(self, file: str, columns: tuple[str, ...]) -> Iterator[Example | Problem]:
        for row in self._rows(file):
            if isinstance(row, Problem):
                yield row
                continue
            number, value = row
            found = ((name, _look_up(value, name)) for name in columns)
            yield Example({name: inner for name, inner in found if inner is not None}, Origin(file, number))

    def _rows(self, file: str) -> Iterator[tuple[int, Any] | Problem]:
        """Line number and value of each row."""
        name, part = _name_and_part(file)
        document = name.lower().removesuffix(".gz").endswith(".json")
        if not document:
            for line in read_lines(name, self.config.encoding):
                if line.text.strip(_BLANK):
                    yield _parse(line, file)
            return
        text = read_text(name, self.config.encoding)
        if part is None and not text.lstrip(_BLANK).startswith("["):
            yield from self._lines_of_document(text, file)
            return
        yield from _items(text, file, name, part)

    def _lines_of_document(self, text: str, file: str) -> Iterator[tuple[int, Any] | Problem]:
        """A `.json` file that holds no list: JSON lines under another name, else one object that needs a part."""
        first = text.lstrip(_BLANK).split("\n", 1)[0]
        try:
            json.loads(first)
        except (ValueError, RecursionError):
            raise _no_list(_load(text, file), file, "the top of the document") from None
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip(_BLANK):
                yield _parse(Line(number, line), file)


def _parse(line: Line, file: str) -> tuple[int, Any] | Problem:
    where = f"{file}:{line.number}"
    if line.problem is not None:
        return line.problem
    if "\0" in line.text:
        return Problem("nul", "the line has a NUL character", where, help="the file is damaged or not text")
    try:
        value = json.loads(line.text)
    except json.JSONDecodeError as error:
        return Problem(
            "bad-json", f"not valid JSON: {error.msg}", f"{where}:{error.colno}", help=_json_hint(line.text)
        )
    except (ValueError, RecursionError) as error:
        return Problem("bad-json", f"cannot read this JSON: {error}", where)
    return (line.number, value) if isinstance(value, dict | list) else _no_row(value, where)


def _no_row(value: Any, where: str) -> Problem:
    return Problem(
        "not-an-object", f"expected an object {{...}} or a list, got {json.dumps(value)[:40]}", where,
        help='a row looks like {"text": "...", "label": "..."}',
    )  # fmt: skip


def _json_hint(text: str) -> str | None:
    stripped = text.strip()
    if stripped.startswith("[") or stripped in ("{", "[") or stripped.startswith("{") != stripped.endswith("}"):
        return "each line must be one whole object; a file with one list of objects must end in .json"
    return "names and texts need double quotes" if "'" in stripped and '"' not in stripped else None


def _items(text: str, file: str, name: str, part: str | None) -> Iterator[tuple[int, Any] | Problem]:
    """The items of a list, each with the line on which it begins."""
    if part is not None:
        value = _load(text, name)
        for key in part.split("."):
            if not isinstance(value, Mapping) or key not in value:
                raise _no_list(value, file, f"#{part}")
            value = value[key]
        if not isinstance(value, list):
            raise _no_list(value, file, f"#{part}")
        for number, item in enumerate(value):
            yield (number, item) if isinstance(item, dict | list) else _no_row(item, f"{file}, row {number}")
        return
    yield from _scan(text, file)


def _scan(text: str, file: str) -> Iterator[tuple[int, Any] | Problem]:
    decoder = json.JSONDecoder()
    position, number = text.index("[") + 1, 1
    counted = 0
    while True:
        position += len(text[position : position + 4096]) - len(text[position : position + 4096].lstrip(_BLANK + ","))
        number, counted = number + text.count("\n", counted, position), position
        if position >= len(text):
            raise DataError("the list is not closed by ]", slug="bad-json", where=f"{file}:{number}")
        if text[position] == "]":
            return
        if text[position] in _BLANK + ",":
            continue
        try:
            value, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise DataError(
                f"not valid JSON: {error.msg}", slug="bad-json", where=f"{file}:{error.lineno}:{error.colno}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"cannot read this JSON: {error}", slug="bad-json", where=f"{file}:{number}") from None
        yield (number, value) if isinstance(value, dict | list) else _no_row(value, f"{file}:{number}")


def _load(text: str, file: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"not valid JSON: {error.msg}", slug="bad-json", where=f"{file}:{error.lineno}:{error.colno}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot read this JSON: {error}", slug="bad-json", where=file) from None


def _no_list(value: Any, file: str, place: str) -> DataError:
    lists = [key for key, inner in value.items() if isinstance(inner, list)] if isinstance(value, Mapping) else []
    name, part = _name_and_part(file)
    near = did_you_mean(part, lists) if part else None
    return DataError(
        f"{place} of {name!r} is no list of rows" + (f"; lists are: {', '.join(lists)}" if lists else ""),
        slug="no-list",
        where=file,
        help=near or (f"name the list, for example {name}#{lists[0]}" if lists else "expected [{...}, {...}]"),
    )


def _name_and_part(file: str) -> tuple[str, str | None]:
    """`data.json#train.rows` -> (`data.json`, `train.rows`), unless a file has just that name."""
    name, mark, part = file.rpartition("#")
    if not mark or (not file.startswith(PACKAGE_SCHEME) and Path(file).exists()):
        return file, None
    return (name, part) if name.lower().endswith((".json", ".json.gz")) else (file, None)


def _names(value: Any, at: str = "") -> Iterator[str]:
    if isinstance(value, list):
        yield from (str(position) for position in range(len(value)))
        return
    for key, inner in value.items():
        yield f"{at}{key}"
        if isinstance(inner, Mapping):
            yield from _names(inner, f"{at}{key}.")


def _look_up(value: Any, name: str) -> Any:
    """The value of a column in a row; None where the row lacks it."""
    if isinstance(value, list):
        return value[int(name)] if name.isdecimal() and int(name) < len(value) else None
    if name in value:
        return value[name]
    inner: Any = value
    for key in name.split("."):
        if not isinstance(inner, Mapping) or key not in inner:
            return None
        inner = inner[key]
    return inner


PLUGIN = JsonlSource

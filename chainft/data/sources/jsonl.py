"""JSON lines: one object a line. A `.json` file may hold a list of objects instead, over any number of lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chainft.config.run import DataConfig
from chainft.data.example import Example, Origin
from chainft.data.files import read_lines, suffix_of
from chainft.data.sources.base import Source
from chainft.errors import DataError, Problem


@dataclass(frozen=True, kw_only=True)
class JsonlConfig(DataConfig):
    """Objects whose keys are the columns; values may be nested."""


class JsonlSource(Source):
    """Reads JSON lines, and lists of objects in `.json` files (these are held in memory while read)."""

    config_class = JsonlConfig
    config: JsonlConfig

    def read(self, file: str) -> Iterator[Example | Problem]:
        lines = read_lines(file, encoding=self.config.encoding, key=self.key_of(file))
        listed: list[str] | None = None
        for line in lines:
            blank = not line.text.strip(_SPACE)
            if listed is None and not blank and line.text.lstrip(_SPACE)[0] == "[" and suffix_of(file) == ".json":
                listed = ["\n"] * (line.number - 1)
            if listed is not None:
                if line.problem:
                    raise DataError.of([line.problem])
                listed.append(line.text + line.end)
            elif line.problem:
                yield line.problem
            elif not blank:
                yield _row(line.text, file, line.number)
        if listed is not None:
            yield from _rows_of_list("".join(listed), file)

    def column_names(self, file: str) -> tuple[str, ...]:
        return self._first_row_names(file)


_SPACE = " \t\r\n"
_BLANK = re.compile(r"[ \t\r\n]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HELP = 'each line must be one JSON object: {"text": "...", "label": "..."}'


class _NotAllowed(ValueError):
    """Python's parser takes it, JSON or chainft does not."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _NotAllowed(f"key {twice!r} is there twice")
    return result


def _constant(name: str) -> Any:
    raise _NotAllowed(f"{name} is not JSON; write null for a missing number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def _row(text: str, file: str, number: int) -> Example | Problem:
    where = f"{file}:{number}"
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return Problem("not-json", f"not JSON: {error.msg}", f"{where}:{error.pos + 1}", help=_HELP)
    except (ValueError, RecursionError) as error:
        return _refused(error, where)
    return _example(value, text, file, number)


def _refused(error: ValueError | RecursionError, where: str) -> Problem:
    message = "brackets are nested too deeply" if isinstance(error, RecursionError) else str(error)
    return Problem("bad-json", message, where)


def _example(value: Any, text: str, file: str, number: int) -> Example | Problem:
    where = f"{file}:{number}"
    if not isinstance(value, dict):
        return Problem("not-an-object", f"expected a JSON object, got {_short(value)}", where, help=_HELP)
    if _SURROGATE.search(text) and _has_lone_surrogate(value):
        return Problem("lone-surrogate", "an escape \\uD800..\\uDFFF stands alone: it is no character", where)
    return Example(value, Origin(file, number))


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _rows_of_list(text: str, file: str) -> Iterator[Example | Problem]:
    """The objects of `[{...}, {...}]`, each at its line; nothing can be read after a place that is no JSON."""
    end = _skip(text, _skip(text, 0) + 1)
    line, counted = text.count("\n", 0, end) + 1, end
    if text[end : end + 1] == "]":
        yield from _after_list(text, end + 1, file)
        return
    while True:
        line, counted = line + text.count("\n", counted, end), end
        try:
            value, end = _DECODER.raw_decode(text, end)
        except json.JSONDecodeError as error:
            yield _broken(text, error.pos, error.msg, file)
            return
        except (ValueError, RecursionError) as error:
            yield _refused(error, f"{file}:{line}")
            return
        yield _example(value, text[counted:end], file, line)
        end = _skip(text, end)
        if text[end : end + 1] == "]":
            yield from _after_list(text, end + 1, file)
            return
        if text[end : end + 1] != ",":
            yield _broken(text, end, "expected ',' or ']'", file)
            return
        end = _skip(text, end + 1)


def _after_list(text: str, end: int, file: str) -> Iterator[Problem]:
    end = _skip(text, end)
    if end < len(text):
        yield _broken(text, end, "text after the end of the list", file)


def _skip(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return found.end() if found else position


def _broken(text: str, position: int, message: str, file: str) -> Problem:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return Problem("not-json", f"not JSON: {message}; the rest of the file is not read", f"{file}:{line}:{column}")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."


PLUGIN = JsonlSource

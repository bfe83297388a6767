"""JSON lines: one object a line. A `.json` file may hold a list of objects instead, over any number of lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from chainft.config.run import DataConfig
from chainft.data.example import Example, Origin
from chainft.data.files import read_lines, suffix_of
from chainft.data.sources.base import Source
from chainft.errors import DataError, Problem, did_you_mean


@dataclass(frozen=True, kw_only=True)
class JsonlConfig(DataConfig):
    """Objects whose keys are the columns; a value inside of another has a dotted name, as in `meta.topic`.

    `file.json::part` (or `::a.b`) names a list inside of a `.json` file. Lists as rows have the columns 0, 1, ...
    """


class JsonlSource(Source):
    """Reads JSON lines, and lists of objects in `.json` files (these are held in memory while read)."""

    config_class = JsonlConfig
    endings: ClassVar[tuple[str, ...]] = (".jsonl", ".ndjson", ".json")
    reads_files: ClassVar[bool] = True
    config: JsonlConfig

    def read(self, file: str) -> Iterator[Example | Problem]:
        name, part = _name_and_part(file)
        if part is not None:
            yield from self._rows_of_part(file, name, part)
            return
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

    def _rows_of_part(self, file: str, name: str, part: str) -> Iterator[Example | Problem]:
        """The rows of a list inside of a document, numbered from 0."""
        lines = list(read_lines(name, encoding=self.config.encoding, key=self.key_of(file)))
        if wrong := [line.problem for line in lines if line.problem]:
            raise DataError.of(wrong)
        text = "".join(line.text + line.end for line in lines)
        try:
            value = _DECODER.decode(text)
        except json.JSONDecodeError as error:
            raise _broken(text, error.pos, error.msg, name) from None
        except (ValueError, RecursionError) as error:
            raise DataError.of([_refused(error, name)]) from None
        for key in part.split("."):
            if not isinstance(value, dict) or key not in value:
                raise _no_part(value, name, part)
            value = value[key]
        if not isinstance(value, list):
            raise _no_part(value, name, part)
        for number, row in enumerate(value):
            yield _checked(row, Origin(file, number, "row"), escaped=True)

    def file_of(self, name: str) -> str:
        return _name_and_part(name)[0]

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
    return _checked(value, Origin(file, number), escaped=_SURROGATE.search(text) is not None)


def _checked(value: Any, origin: Origin, *, escaped: bool) -> Example | Problem:
    """A row as an example; `escaped`: there may be lone surrogates in it."""
    if isinstance(value, list):
        value = {str(number): item for number, item in enumerate(value)}
    if not isinstance(value, dict):
        message = f"expected a JSON object or list, got {_short(value)}"
        return Problem("not-an-object", message, str(origin), help=_HELP)
    if escaped and _has_lone_surrogate(value):
        message = "an escape \\uD800..\\uDFFF stands alone: it is no character"
        return Problem("lone-surrogate", message, str(origin))
    return Example(value, origin)


def _no_part(value: Any, name: str, part: str) -> DataError:
    there = [key for key, inner in value.items() if isinstance(inner, dict | list)] if isinstance(value, dict) else []
    return DataError(
        f"there is no list {part!r} in {name!r}" + (f"; there are: {', '.join(there)}" if there else ""),
        slug="no-list",
        where=name,
        help=did_you_mean(part.rpartition(".")[2], there) or "write file.json::key, with the key of a list of rows",
    )


def _name_and_part(file: str) -> tuple[str, str | None]:
    """`data.json::train.rows` -> (`data.json`, `train.rows`), unless a file has just that name."""
    name, mark, part = file.rpartition("::")
    if not mark or suffix_of(name) != ".json" or Path(file).exists():
        return file, None
    return name, part


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _rows_of_list(text: str, file: str) -> Iterator[Example | Problem]:
    """The objects of `[{...}, {...}]`, each at its line. Raises DataError at a place that is no JSON."""
    end = _skip(text, _skip(text, 0) + 1)
    line, counted = text.count("\n", 0, end) + 1, end
    if text[end : end + 1] == "]":
        _check_end(text, end + 1, file)
        return
    while True:
        line, counted = line + text.count("\n", counted, end), end
        try:
            value, end = _DECODER.raw_decode(text, end)
        except json.JSONDecodeError as error:
            raise _broken(text, error.pos, error.msg, file) from None
        except (ValueError, RecursionError) as error:
            raise DataError.of([_refused(error, f"{file}:{line}")]) from None
        yield _example(value, text[counted:end], file, line)
        end = _skip(text, end)
        if text[end : end + 1] == "]":
            _check_end(text, end + 1, file)
            return
        if text[end : end + 1] != ",":
            raise _broken(text, end, "expected ',' or ']'", file)
        end = _skip(text, end + 1)


def _check_end(text: str, end: int, file: str) -> None:
    end = _skip(text, end)
    if end < len(text):
        raise _broken(text, end, "text after the end of the list", file)


def _skip(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return found.end() if found else position


def _broken(text: str, position: int, message: str, file: str) -> DataError:
    """Not a malformed row: what follows cannot be read, and may be many rows."""
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return DataError(f"not JSON: {message}", slug="not-json", where=f"{file}:{line}:{column}")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."


PLUGIN = JsonlSource

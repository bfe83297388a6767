"""Comma- and tab-separated values as RFC 4180 says: quoted fields may hold delimiters, quotes and line ends."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from chainft.config.run import DataConfig
from chainft.data.example import Example, Origin
from chainft.data.files import MAX_LINE_BYTES, TAB_WORDS, Line, read_lines, suffix_of
from chainft.data.sources.base import Source
from chainft.errors import ConfigError, DataError, Problem


@dataclass(frozen=True, kw_only=True)
class CsvConfig(DataConfig):
    """A table as text; the first row names the columns."""

    delimiter: str | None = None
    """One character between fields, or the word `tab`; default: tab for `.tsv` and `.tab`, else comma."""
    quote: str | None = '"'
    """The character around fields that hold a delimiter or a line end, doubled inside; null: quotes are plain text."""
    header: bool = True
    """The first row names the columns; without, `field_names` does."""
    field_names: tuple[str, ...] = ()
    """Names of the columns of a file without header."""

    def __post_init__(self) -> None:
        for name in ("delimiter", "quote"):
            value = TAB_WORDS.get(getattr(self, name), getattr(self, name))
            if value is not None and (len(value) != 1 or value in "\r\n\0"):
                message = f"data.{name}={value!r} must be one character"
                raise ConfigError(message, slug="not-one-character", key=f"data.{name}")
        if self.delimiter is not None and self.delimiter == self.quote:
            message = f"data.delimiter and data.quote are both {self.quote!r}"
            raise ConfigError(message, slug="contradiction", key="data.delimiter")
        if self.header and self.field_names:
            raise ConfigError(
                "data.field_names has no effect: the header names the columns",
                slug="no-effect",
                key="data.field_names",
                help="set data.header=false if the file has no header",
            )
        if not self.header and not self.field_names:
            raise ConfigError(
                "data.header=false needs the names of the columns",
                slug="no-field-names",
                key="data.field_names",
                help="for example data.field_names=[text,label]",
            )
        if len(set(self.field_names)) < len(self.field_names):
            raise ConfigError("data.field_names has a name twice", slug="same-name", key="data.field_names")


class CsvSource(Source):
    """Reads CSV and TSV; all values are text, blank lines are left out."""

    config_class = CsvConfig
    endings: ClassVar[tuple[str, ...]] = (".csv", ".tsv")
    reads_files: ClassVar[bool] = True
    config: CsvConfig

    def read(self, file: str) -> Iterator[Example | Problem]:
        names = self.config.field_names
        rows = self._rows(file)
        if self.config.header:
            names = self._header(file, rows)
        for row in rows:
            if isinstance(row, Problem):
                yield row
                continue
            line, cells = row
            if len(cells) != len(names):
                yield _ragged(file, line, cells, names)
            else:
                yield Example(dict(zip(names, cells, strict=True)), Origin(file, line))

    def column_names(self, file: str) -> tuple[str, ...]:
        return self._header(file, self._rows(file)) if self.config.header else self.config.field_names

    def _header(self, file: str, rows: Iterator[tuple[int, list[str]] | Problem]) -> tuple[str, ...]:
        row = next(rows, None)
        if row is None:
            return ()
        if isinstance(row, Problem):
            raise DataError.of([row])
        line, cells = row
        if twice := next((name for name in cells if cells.count(name) > 1), None):
            message = f"the header names column {twice!r} twice"
            raise DataError(message, slug="same-name", where=f"{file}:{line}", key=self.key_of(file))
        if self.config.delimiter is None and (other := _other_delimiter(cells)):
            raise DataError(
                f"the header is one column, {cells[0]!r}: {other!r} seems to stand between columns",
                slug="one-column",
                where=f"{file}:{line}",
                key="data.delimiter",
                help=f"set {_DELIMITERS[other]}",
            )
        return tuple(cells)

    def _rows(self, file: str) -> Iterator[tuple[int, list[str]] | Problem]:
        """Each row that is not blank, with the line at which it starts."""
        csv.field_size_limit(MAX_LINE_BYTES)  # of the whole process; its default would refuse long texts
        feed = _Feed(read_lines(file, encoding=self.config.encoding, key=self.key_of(file)))
        reader = csv.reader(
            feed,
            delimiter=self._delimiter(file),
            quotechar=self.config.quote,
            quoting=csv.QUOTE_MINIMAL if self.config.quote else csv.QUOTE_NONE,
            strict=True,
        )
        while True:
            feed.start_row()
            try:
                cells = next(reader, None)
            except csv.Error as error:
                problem = _malformed(file, feed, error)
                yield feed.problem or problem
                continue
            if feed.problem is not None:
                yield feed.problem
            elif cells:
                yield feed.first, cells
            if cells is None:
                return

    def _delimiter(self, file: str) -> str:
        chosen = self.config.delimiter
        if chosen is None:
            return "\t" if suffix_of(file) in (".tsv", ".tab") else ","
        return TAB_WORDS.get(chosen, chosen)


_DELIMITERS = {
    "\t": "data.delimiter=tab",
    ";": "'data.delimiter=;'",
    "|": "'data.delimiter=|'",
    ",": "data.delimiter=,",
}
"""What may stand between columns, and the word for the command line."""


def _other_delimiter(header: list[str]) -> str | None:
    """The character that a header of one column was likely meant to be split at."""
    return next((one for one in _DELIMITERS if len(header) == 1 and one in header[0]), None)


class _Feed:
    """Hands lines to the parser and remembers where the row that it is parsing began."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self.lines = lines
        self.first = 0
        self.last = 0
        self.problem: Problem | None = None

    def start_row(self) -> None:
        self.first = self.last + 1
        self.problem = None

    def __iter__(self) -> Iterator[str]:
        for line in self.lines:
            self.last = line.number
            self.problem = self.problem or line.problem
            yield line.text + line.end


def _malformed(file: str, feed: _Feed, error: csv.Error) -> Problem:
    """What is wrong with one row. Raises DataError for a quote that swallowed the rest of the file: many rows."""
    reason, where = str(error), f"{file}:{feed.first}"
    if "unexpected end of data" in reason or "field larger" in reason:
        if feed.problem is not None:
            raise DataError.of([feed.problem])
        raise DataError(
            f"the row begins a quoted field that never ends (read up to line {feed.last})",
            slug="open-quote",
            where=where,
            help="close the quote; if quotes are plain text in this file, set data.quote=null",
        )
    lines = f" (lines {feed.first} to {feed.last})" if feed.last > feed.first else ""
    return Problem(
        "bad-csv", f"{reason}{lines}", where, help="if quotes are plain text in this file, set data.quote=null"
    )


def _ragged(file: str, line: int, cells: list[str], names: tuple[str, ...]) -> Problem:
    there = f"{len(cells)} field{'' if len(cells) == 1 else 's'}"
    return Problem(
        "ragged-row",
        f"the row has {there}, there are {len(names)} columns ({', '.join(names)[:80]})",
        f"{file}:{line}",
        help="put quotes around a text that holds the delimiter",
    )


PLUGIN = CsvSource

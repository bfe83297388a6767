"""Comma- or tab-separated values as RFC 4180 has them: quoted fields may hold delimiters, quotes and line ends."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass

from chainft.config.run import DataConfig
from chainft.data.example import Example, Origin
from chainft.data.lines import read_lines
from chainft.data.sources.base import Source
from chainft.errors import ConfigError, DataError, Problem

MAX_FIELD = 16 * 2**20
"""Most characters of one field: a quote that is never closed would swallow the whole file."""
_WRITTEN = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";"}
_TAB_ENDINGS = (".tsv", ".tab", ".tsv.gz", ".tab.gz")


@dataclass(frozen=True, kw_only=True)
class CsvConfig(DataConfig):
    """Comma- or tab-separated values; the first line names the columns."""

    delimiter: str | None = None
    """What stands between fields: one character, or `tab`; null: a tab in .tsv and .tab files, else a comma."""
    quote: str | None = '"'
    """What encloses fields that hold delimiters or line ends; null: quotes mean nothing (as in many .tsv files)."""
    column_names: tuple[str, ...] | None = None
    """Names of the columns of files *without* a header line; null: the first line of each file names them."""

    def __post_init__(self) -> None:
        for name, value in (("delimiter", _WRITTEN.get(self.delimiter or "", self.delimiter)), ("quote", self.quote)):
            if value is not None and (len(value) != 1 or value in "\r\n"):
                raise ConfigError(
                    f"data.{name}={value!r} is not one character", slug="invalid", key=f"data.{name}", help='e.g. ";"'
                )
        if self.column_names is not None and len(set(self.column_names)) < max(1, len(self.column_names)):
            raise ConfigError(
                f"data.column_names={list(self.column_names)} needs different names",
                slug="invalid",
                key="data.column_names",
            )


class CsvSource(Source):
    """Reads rows; each has as many fields as the header."""

    config_class = CsvConfig

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        assert isinstance(config, CsvConfig)
        self.settings = config

    def column_names(self, file: str) -> tuple[str, ...]:
        if self.settings.column_names is not None:
            return self.settings.column_names
        first = next(iter(self._rows(file)), None)
        if first is None:
            raise DataError(f"{file!r} has no rows", slug="empty-file", where=file)
        if isinstance(first[1], Problem):
            raise DataError.of([first[1]])
        return _checked_header(first[1], file)

    def read(self, file: str, columns: tuple[str, ...]) -> Iterator[Example | Problem]:
        names = self.column_names(file)
        places = [(name, names.index(name)) for name in columns]
        rows = self._rows(file)
        if self.settings.column_names is None:
            next(rows)
        for number, row in rows:
            if isinstance(row, Problem):
                yield row
            elif len(row) != len(names):
                yield self._ragged(row, len(names), f"{file}:{number}")
            else:
                yield Example({name: row[place] for name, place in places}, Origin(file, number))

    def _rows(self, file: str) -> Iterator[tuple[int, list[str] | Problem]]:
        """The first line and the fields of each row that is not blank."""
        feed = _Feed(file, self.config.encoding)
        reader = self._reader(feed, file)
        while True:
            start = feed.number + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield start, self._malformed(error, feed, file, start)
                feed.problems.clear()
                continue
            if feed.problems:
                yield start, feed.problems[0]
                feed.problems.clear()
            elif row:
                yield start, row

    def _reader(self, feed: _Feed, file: str) -> Iterator[list[str]]:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))  # The process's limit is only ever raised.
        delimiter = self._delimiter(file)
        if self.settings.quote is None:
            return iter(csv.reader(feed, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True))
        return iter(csv.reader(feed, delimiter=delimiter, quotechar=self.settings.quote, strict=True))

    def _delimiter(self, file: str) -> str:
        chosen = self.settings.delimiter
        if chosen is not None:
            return _WRITTEN.get(chosen, chosen)
        return "\t" if file.lower().endswith(_TAB_ENDINGS) else ","

    def _malformed(self, error: csv.Error, feed: _Feed, file: str, start: int) -> Problem:
        """The problem of one row. Raises DataError where a quote swallowed what may be many rows."""
        where = f"{file}:{start}"
        reason = str(error)
        if "unexpected end of data" in reason or "field larger" in reason:
            raise DataError(
                f"a {self.settings.quote} opened in this row is not closed by line {feed.number}",
                slug="open-quote",
                where=where,
                help="close it, double it if it is part of the text, or read quotes as plain text by data.quote=null",
            )
        if "new-line character" in reason:
            return Problem("line-end", "a carriage return stands inside the row", where, help="convert the line ends")
        help = "double quotes that are part of a text, or read quotes as plain text by data.quote=null"
        return Problem("bad-csv", f"not valid CSV: {reason}", where, help=help)

    def _ragged(self, row: list[str], width: int, where: str) -> Problem:
        shown = repr(row)
        return Problem(
            "ragged-row",
            f"{len(row)} {'field' if len(row) == 1 else 'fields'} where there are {width} columns: {shown[:60]}",
            where,
            help="fields that hold the delimiter or a line end need quotes",
        )


class _Feed:
    """Lines for the CSV reader, which keeps count and remembers what is wrong with them."""

    def __init__(self, file: str, encoding: str) -> None:
        self.file = file
        self.number = 0
        self.problems: list[Problem] = []
        self._lines = read_lines(file, encoding)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number = line.number
        if line.problem is not None:
            self.problems.append(line.problem)
        elif "\0" in line.text:
            self.problems.append(Problem("nul", "the line has a NUL character", f"{self.file}:{line.number}"))
        return line.text


def _checked_header(names: list[str], file: str) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"the header names {twice[0]!r} twice",
            slug="bad-header",
            where=f"{file}:1",
            help="rename one; for a file without a header give data.column_names=[...]",
        )
    return tuple(names)


PLUGIN = CsvSource

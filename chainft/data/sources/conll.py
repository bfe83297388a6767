"""CoNLL files: one word a line in columns, an empty line between sentences.

Each sentence is an example. Its columns are lists with one entry a word: the first is `tokens`, the last
`tags`, and each also has its number, from the left (`0`, `1`, ...) and from the right (`-1`, `-2`, ...). Lines that
begin with -DOCSTART- (CoNLL-2003) begin documents: sentences after the first have the number of theirs as `document`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from chainft.config.run import DataConfig
from chainft.data.example import Example, Origin
from chainft.data.files import TAB_WORDS, Line, read_lines
from chainft.data.sources.base import Source
from chainft.errors import ConfigError, Problem

DOCUMENT_START = "-DOCSTART-"


@dataclass(frozen=True, kw_only=True)
class ConllConfig(DataConfig):
    """Words in columns. `data.columns` names a column by its number: `{tokens: 0, tags: -1}` is the default."""

    separator: str | None = None
    """What stands between columns, any text or the word `tab`; default: tabs where the line has any, else spaces."""
    comment_prefix: str | None = None
    """Lines that begin with it are left out; mind words that begin with it."""
    tag_separator: str | None = None
    """Where one word has several tags, what stands between them: the first is taken."""

    def __post_init__(self) -> None:
        for name in ("separator", "comment_prefix", "tag_separator"):
            if getattr(self, name) == "":
                raise ConfigError(f"data.{name} is empty", slug="empty-value", key=f"data.{name}")


@dataclass
class _Sentence:
    rows: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    damaged: bool = False
    document: int = 0


class ConllSource(Source):
    """Reads CoNLL-2003, WNUT-17 and alike; a sentence with a malformed row is left out as a whole."""

    config_class = ConllConfig
    endings: ClassVar[tuple[str, ...]] = (".conll", ".bio", ".iob", ".iob2", ".bioes")
    reads_files: ClassVar[bool] = True
    config: ConllConfig

    def read(self, file: str) -> Iterator[Example | Problem]:
        sentence = _Sentence()
        first: tuple[int, int] | None = None  # how many columns the file has, and the line that says so
        for line in read_lines(file, encoding=self.config.encoding, key=self.key_of(file)):
            if self.config.comment_prefix is not None and line.text.startswith(self.config.comment_prefix):
                continue
            cells = self._cells(line.text)
            if cells is None and line.problem is None:
                yield from self._example(file, sentence)
                sentence = _Sentence(document=sentence.document + line.text.startswith(DOCUMENT_START))
                continue
            cells = cells or []
            problem = line.problem or _malformed(file, line, cells, first)
            if problem is not None:
                sentence.damaged = True
                yield problem
                continue
            first = first or (len(cells), line.number)
            sentence.rows.append(cells)
            sentence.lines.append(line.number)
        yield from self._example(file, sentence)

    def column_names(self, file: str) -> tuple[str, ...]:
        return self._first_row_names(file)

    def _cells(self, text: str) -> list[str] | None:
        """The columns of a line; None where it ends a sentence."""
        if not text.strip():
            return None
        separator = self.config.separator
        if separator is not None:
            cells = text.split(TAB_WORDS.get(separator, separator))
        elif "\t" in text:
            cells = text.split("\t")
        else:  # not split(): a no-break or ideographic space may be a word, or part of one
            cells = [cell for cell in text.split(" ") if cell]
        return None if cells and cells[0] == DOCUMENT_START else cells

    def _example(self, file: str, sentence: _Sentence) -> Iterator[Example]:
        if not sentence.rows or sentence.damaged:
            return
        columns = [list(column) for column in zip(*sentence.rows, strict=True)]
        if self.config.tag_separator is not None:
            self._take_first_tags(columns)
        count = len(columns)
        values: dict[str, Any] = {"tokens": columns[0]} | ({"tags": columns[-1]} if count > 1 else {})
        values |= {str(number): columns[number] for number in range(count)}
        values |= {str(number): columns[number] for number in range(-1, -count - 1, -1)}
        if sentence.document:
            values["document"] = str(sentence.document)
        yield Example(values, Origin(file, sentence.lines[0]), tuple(sentence.lines))

    def _take_first_tags(self, columns: list[list[str]]) -> None:
        """Shorten the tag column: the last, or the one that `data.columns` gives."""
        name = str(self.config.columns.get("tags", -1))
        number = int(name) if name.removeprefix("-").isdecimal() else -1
        if len(columns) > 1 and -len(columns) <= number < len(columns):
            columns[number] = [tag.split(self.config.tag_separator)[0] for tag in columns[number]]


def _malformed(file: str, line: Line, cells: list[str], first: tuple[int, int] | None) -> Problem | None:
    where = f"{file}:{line.number}"
    if "\r" in line.text:
        column = line.text.index("\r") + 1
        return Problem("carriage-return", "a carriage return stands inside the line", f"{where}:{column}")
    if first is not None and len(cells) != first[0]:
        there = f"{len(cells)} column{'' if len(cells) == 1 else 's'}"
        return Problem(
            "ragged-row",
            f"the row has {there}, line {first[1]} has {first[0]}: {_short(line.text)}",
            where,
            help="columns are split at tabs where a line has any, else at spaces; data.separator sets another",
        )
    if not cells[0].strip() or not cells[-1].strip():
        name = "first" if not cells[0].strip() else "last"
        return Problem("empty-cell", f"the {name} column is empty: {_short(line.text)}", where)
    return None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


PLUGIN = ConllSource

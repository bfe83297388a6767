"""One row of data and where it came from: what sources yield and tasks read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an example stands: a file and its first line (from 1), or a table and its row (from 0)."""

    file: str
    line: int
    """0: no line can be told."""
    unit: Literal["line", "row"] = "line"
    part: str | None = None
    """Where inside of a document, for formats whose lines say little: `article 'Oslo', paragraph 2, question 'q7'`."""

    def __str__(self) -> str:
        place = (
            f"{self.file}, row {self.line}"
            if self.unit == "row"
            else f"{self.file}:{self.line}"
            if self.line
            else self.file
        )
        return place if self.part is None else f"{place}, {self.part}"


@dataclass(frozen=True, slots=True)
class Example:
    """One example: its values under the names that the *task* uses (columns are already mapped)."""

    values: Mapping[str, Any]
    origin: Origin
    lines: tuple[int, ...] | None = None
    """For sources where one example spans several lines: the line of each item (each token of CoNLL)."""

    def where(self, item: int | None = None) -> str:
        """`file:line` of the example, or of its item number `item`."""
        if item is not None and self.lines is not None:
            return f"{self.origin.file}:{self.lines[item]}"
        return str(self.origin) if item is None else f"{self.origin}, item {item}"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the data contract noticed."""

    slug: str
    severity: Literal["error", "warning", "info"]
    message: str
    where: str | None = None
    help: str | None = None
    count: int = 1
    """How many places show it; `where` is the first."""

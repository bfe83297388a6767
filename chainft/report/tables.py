"""Tables of scores on a terminal of any width: side by side, folded, or stacked where it is narrow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich import box
from rich.align import Align
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from chainft.report.words import number, printable
from chainft.tasks.base import Table

MOST_ROWS = 30
"""More classes than this are shortened to the worst and the best."""
SHORT_ROWS = 8
"""How many of each remain."""
_LEAST_NAME = 14
_BETWEEN = 3
"""Cells between two columns: their padding and what `rich` draws between them."""
_AVERAGE = re.compile(r"(micro|macro|weighted|samples|all)([ _-](avg|average|mean|f1))?|accuracy|average|total")

Row = tuple[str | float | int | None, ...]


@dataclass(frozen=True)
class Rows:
    """The rows of a table: classes apart from averages over them."""

    classes: tuple[Row, ...]
    averages: tuple[Row, ...]


def split_rows(table: Table) -> Rows:
    """Averages are rows named micro, macro, weighted ... at the end of the table."""
    cut = len(table.rows)
    while cut > 0 and _AVERAGE.fullmatch(str(table.rows[cut - 1][0]).casefold()):
        cut -= 1
    return Rows(table.rows[:cut], table.rows[cut:])


def deciding_column(table: Table) -> int | None:
    """The column that ranks classes: F1, else the last one that holds fractions."""
    names = [column.casefold() for column in table.columns]
    if "f1" in names:
        return names.index("f1")
    fractional = [index for index in range(1, len(names)) if any(isinstance(row[index], float) for row in table.rows)]
    return fractional[-1] if fractional else None


def shorten(table: Table) -> tuple[Table, int]:
    """The table with at most the worst and the best classes, and how many were left out."""
    rows, column = split_rows(table), deciding_column(table)
    if len(rows.classes) <= MOST_ROWS or column is None:
        return table, 0
    ranked = sorted(rows.classes, key=lambda row: _rank(row[column]))
    return _ends(table, ranked, rows.averages)


def shorten_counts(table: Table) -> tuple[Table, int]:
    """The table with at most its first and last rows, and how many were left out."""
    return _ends(table, table.rows, ()) if len(table.rows) > MOST_ROWS else (table, 0)


def _ends(table: Table, ranked: Sequence[Row], averages: Sequence[Row]) -> tuple[Table, int]:
    left_out = len(ranked) - 2 * SHORT_ROWS
    gap: Row = (f"({left_out} classes between)", *("" for _ in table.columns[1:]))
    return replace(table, rows=(*ranked[:SHORT_ROWS], gap, *ranked[-SHORT_ROWS:], *averages)), left_out


def render(table: Table, console: Console) -> RenderableType:
    """The table as it fits the console: whole, with folded names, or stacked."""
    cells = [[number(cell) if cell != "" else "" for cell in row] for row in table.rows]
    title = Text(printable(table.title), style="bold")
    widths = _widths(table.columns, cells)
    if _total(widths) > console.width:  # Then columns are as wide as a word of their heads.
        widths = [widths[0], *_widths(table.columns, cells, wrapped=True)[1:]]
    others = _total([0, *widths[1:]])
    if others + min(widths[0], _LEAST_NAME) > console.width:
        return Group(title, *_stacked(table.columns, cells, console.width))
    return Group(title, _side_by_side(table, cells, [max(1, min(widths[0], console.width - others)), *widths[1:]]))


def _widths(columns: Sequence[str], cells: Sequence[Sequence[str]], *, wrapped: bool = False) -> list[int]:
    """Cells that each column takes; `wrapped`: with every word of its head on a line of its own."""
    heads = [printable(column).split() if wrapped else [printable(column)] for column in columns]
    return [
        max(cell_len(one) for one in (*head, *(row[index] for row in cells), "")) for index, head in enumerate(heads)
    ]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _BETWEEN * (len(widths) - 1)


def _side_by_side(table: Table, cells: Sequence[Sequence[str]], widths: Sequence[int]) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False, header_style="")
    for index, (column, width) in enumerate(zip(table.columns, widths, strict=True)):
        side: Literal["left", "right"] = "right" if index else "left"
        head = Align(Text(printable(column), justify=side), side, vertical="bottom")
        grid.add_column(head, justify=side, overflow="fold", width=width)
    averages = len(split_rows(table).averages)
    for index, row in enumerate(cells):
        last_class = averages > 0 and index == len(cells) - averages - 1
        grid.add_row(*(Text(cell) for cell in row), end_section=last_class)
    return grid


def _stacked(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[Text]:
    """Each row as its name and, below, its values with their names, wrapped between values."""
    lines: list[Text] = []
    for row in cells:
        lines.append(Text(row[0], overflow="fold"))
        line = " "
        for column, cell in zip(columns[1:], row[1:], strict=True):
            part = f" {printable(column)} {cell}" if cell else ""
            if cell_len(line + part) > width and line.strip():
                lines.append(Text(line))
                line = " "
            line += part
        if line.strip():
            lines.append(Text(line, overflow="fold"))
    return lines


def _rank(cell: str | float | None) -> float:
    return float(cell) if isinstance(cell, int | float) else -1.0

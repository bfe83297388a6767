"""What metrics find and the report shows: scores, tables, charts, confusions, and mistakes with their marks.

Public as names of `chainft.tasks.base`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Table:
    """A table of scores, for the console and the report; the first cell of a row is its name."""

    title: str
    """Says plainly what is counted: `entities`, `tokens`, `texts`."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    note: str = ""
    """A sentence for the report on what is counted and how to read it."""


@dataclass(frozen=True)
class Confusion:
    """How often gold class i (row) was predicted as class j (column)."""

    title: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Series:
    """One curve, or one set of bars or points, of a chart."""

    name: str
    points: tuple[tuple[float | str, float], ...]
    """x and y; the x of a bar may be a name."""


@dataclass(frozen=True)
class Chart:
    """A plot of the report."""

    title: str
    note: str
    """In plain words: what is drawn, and which direction is good."""
    x: str
    """What stands on the horizontal axis, with its unit."""
    series: tuple[Series, ...]
    kind: Literal["line", "bar"] = "line"
    """bar: counts or scores of neighbouring stretches of x, one series; line: up to four series."""


@dataclass(frozen=True)
class Scores:
    """What metrics found: numbers to log and compare, tables and charts to read."""

    values: Mapping[str, float]
    """Flat, for example `entity_f1: 0.81`; names say what is counted. Less is better where a name ends in `loss`,
    `perplexity` or `error` (or `error_rate`, ...: see `chainft.metrics._direction.falls`), else more."""
    tables: tuple[Table, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    charts: tuple[Chart, ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    """What a value counts, in plain words; where nothing is said, the report has words of its own."""


@dataclass(frozen=True)
class Mark:
    """A labelled stretch of a text, `[start, end)` in characters."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction, as the report shows it."""

    badness: float
    """Sorts the worst first: for example wrong spans, or the probability given to the wrong class."""
    text: str
    gold: str
    predicted: str
    gold_marks: tuple[Mark, ...] = ()
    predicted_marks: tuple[Mark, ...] = ()


def merge_scores(parts: Iterable[Scores]) -> Scores:
    """All scores as one; a key that two metrics share is a bug and raises ValueError."""
    values: dict[str, float] = {}
    tables: list[Table] = []
    confusions: list[Confusion] = []
    charts: list[Chart] = []
    meanings: dict[str, str] = {}
    for part in parts:
        if twice := values.keys() & part.values.keys():
            raise ValueError(f"two metrics report {sorted(twice)}")
        values.update(part.values)
        tables.extend(part.tables)
        confusions.extend(part.confusions)
        charts.extend(part.charts)
        meanings.update(part.meanings)
    return Scores(values, tuple(tables), tuple(confusions), tuple(charts), meanings)

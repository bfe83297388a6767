"""What was taken for what: a matrix of gold against predicted classes, and the most frequent mix-ups."""

from __future__ import annotations

import math

from chainft.report.charts import figure, svg
from chainft.report.markup import Child, Html, coordinate, tag
from chainft.report.words import number, plural
from chainft.tasks.base import Confusion

MOST_NUMBERED = 16
"""Up to so many classes, the matrix has a number in each cell."""
MOST_PAIRS = 12
_CELL_WIDTH, _CELL_HEIGHT = 44.0, 26.0
_LETTER = 6.8
_LONGEST = 22


def most_confused(confusion: Confusion, most: int = MOST_PAIRS) -> list[tuple[str, str, int, float]]:
    """The most frequent (gold, predicted, times, share of that gold class) off the diagonal."""
    pairs = [
        (count, row, column)
        for row, counts in enumerate(confusion.counts)
        for column, count in enumerate(counts)
        if row != column and count > 0
    ]
    ranked = sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:most]
    totals = [sum(counts) for counts in confusion.counts]
    return [
        (confusion.labels[row], confusion.labels[column], count, count / totals[row]) for count, row, column in ranked
    ]


def confusion_view(confusion: Confusion) -> Html:
    """Matrix and mix-ups; of many classes, the mix-ups come first."""
    if len(confusion.labels) <= MOST_NUMBERED:
        return tag("div", _matrix(confusion), _pairs(confusion), class_="pair-up")
    return tag("div", _pairs(confusion), _compact(confusion), class_="many")


def _pairs(confusion: Confusion) -> Html:
    pairs = most_confused(confusion)
    if not pairs:
        return tag("p", "Nothing was mixed up.", class_="note")
    rows = [
        tag(
            "tr",
            tag("td", tag("bdi", gold)),
            tag("td", tag("bdi", predicted)),
            tag("td", number(count), class_="number"),
            tag("td", number(share), class_="number"),
        )
        for gold, predicted, count, share in pairs
    ]
    head = tag(
        "tr",
        tag("th", "gold", scope="col"),
        tag("th", "taken for", scope="col"),
        tag("th", "times", scope="col", class_="number"),
        tag("th", "share of gold", scope="col", class_="number"),
    )
    wrong = sum(sum(row) for row in confusion.counts) - sum(row[i] for i, row in enumerate(confusion.counts))
    caption = tag("caption", tag("strong", "Most frequent mix-ups"), f" of {wrong:,} in all")
    return tag("div", tag("table", caption, tag("thead", head), tag("tbody", rows)), class_="scroll")


def _matrix(confusion: Confusion) -> Html:
    """Numbers in cells, shaded by their share of the gold class (row)."""
    letters = min(_LONGEST, max((len(label) for label in confusion.labels), default=1))
    left, top = letters * _LETTER + 14, letters * _LETTER * 0.64 + 20
    size = len(confusion.labels)
    parts: list[Child] = []
    for row, label in enumerate(confusion.labels):
        y = top + row * _CELL_HEIGHT
        parts.append(tag("text", _clipped(label), x=left - 8, y=y + 17, text_anchor="end"))
        parts.extend(_cell(confusion, row, column, at=(left + column * _CELL_WIDTH, y)) for column in range(size))
    for column, label in enumerate(confusion.labels):
        x, y = left + (column + 0.5) * _CELL_WIDTH, top - 8
        turn = f"rotate(-40 {coordinate(x)} {coordinate(y)})"
        parts.append(tag("text", _clipped(label), x=x, y=y, transform=turn))
    note = f"{_axes(confusion)}shaded by the share of the row, right ones on the framed diagonal"
    width, height = left + size * _CELL_WIDTH + letters * _LETTER * 0.5, top + size * _CELL_HEIGHT + 4
    drawing = svg(parts, label=f"{confusion.title}: {note}", width=width, height=height)
    return tag("div", figure(confusion.title, note, drawing), style=f"max-width:{round(width)}px", class_="matrix")


def _cell(confusion: Confusion, row: int, column: int, *, at: tuple[float, float]) -> Child:
    count, total = confusion.counts[row][column], sum(confusion.counts[row])
    shade = _shade(count / total) if count else 0.0
    (x, y), right = at, row == column
    box = tag(
        "rect",
        tag("title", _tip(confusion, row, column)),
        x=x + 1,
        y=y + 1,
        width=_CELL_WIDTH - 2,
        height=_CELL_HEIGHT - 2,
        class_="cell right" if right else "cell wrong",
        fill_opacity=f"{shade:.2f}",
    )
    style = "value strong" if shade > 0.6 else "value" if count or right else "nothing"
    text = _brief(count) if count or right else "·"
    return [box, tag("text", text, x=x + _CELL_WIDTH / 2, y=y + 17, text_anchor="middle", class_=style)]


def _compact(confusion: Confusion) -> Html:
    """A matrix without numbers for many classes; names at the rows, columns in the same order."""
    cell = max(3.0, min(9.0, 620.0 / len(confusion.labels)))
    longest = min(_LONGEST, max(len(label) for label in confusion.labels))
    named = cell >= 6
    left = longest * cell * 0.52 + 8 if named else 8.0
    side = len(confusion.labels) * cell
    parts: list[Child] = [tag("rect", x=left, y=2.0, width=side, height=side, class_="frame")]
    for row, (label, counts) in enumerate(zip(confusion.labels, confusion.counts, strict=True)):
        y, total = 2.0 + row * cell, sum(counts)
        if named:
            size = f"font-size:{coordinate(cell * 0.86)}px"
            parts.append(tag("text", _clipped(label), x=left - 4, y=y + cell * 0.8, text_anchor="end", style=size))
        for column, count in enumerate(counts):
            if count:
                kind = "right" if row == column else "wrong"
                parts.append(
                    tag(
                        "rect",
                        tag("title", _tip(confusion, row, column)),
                        x=left + column * cell,
                        y=y,
                        width=cell,
                        height=cell,
                        class_=f"dot {kind}",
                        fill_opacity=f"{_shade(count / total):.2f}",
                    )
                )
    note = (
        f"{plural(len(confusion.labels), 'class', 'classes')}; {_axes(confusion)}both in the same order; "
        "darker is more frequent; all that is off the diagonal is wrong"
    )
    drawing = svg(parts, label=f"{confusion.title}: {note}", width=left + side + 2, height=side + 4)
    return figure(confusion.title, note, drawing)


def _axes(confusion: Confusion) -> str:
    """Which way to read the matrix, unless its title says so."""
    return "" if "rows" in confusion.title else "rows: gold, columns: predicted; "


def _shade(share: float) -> float:
    """Rare mix-ups stay visible: the root of the share."""
    return 0.12 + 0.83 * math.sqrt(share)


def _tip(confusion: Confusion, row: int, column: int) -> str:
    labels = confusion.labels
    return f"{labels[row]} taken for {labels[column]}: {confusion.counts[row][column]:,}"


def _clipped(label: str) -> str:
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"


def _brief(count: int) -> str:
    """Short enough for a cell."""
    return f"{count:,}" if count < 10_000 else f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"

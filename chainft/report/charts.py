"""Charts as inline SVG: curves over steps, bars, histograms. Told apart by dashes and markers, not by colour alone.

Colours are classes (`s0`, `s1`, ...) that the style sheet defines for light, dark and paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chainft.report.markup import Child, Html, coordinate, tag
from chainft.report.scale import Scale, fitted, linear, logarithmic
from chainft.report.words import number, short

WIDTH, HEIGHT = 560.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 14.0, 20.0, 42.0
MOST_POINTS = 300
"""Longer curves are thinned: each point is the mean of a stretch."""
_LOG_RATIO = 200.0
_LEAST_SPAN = 0.05
"""Scores that differ by less than this are not blown up to the full height."""
_DASHES = (None, "7 4", "2 3", "9 3 2 3")

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Line:
    """One curve; a point without value is a gap."""

    name: str
    points: tuple[Point, ...]
    style: int = 0
    """Which colour, dash pattern and marker."""
    marked: bool = False
    """A marker at each point, with its value as tooltip."""


@dataclass(frozen=True)
class Chart:
    """What stands around the curves."""

    title: str
    note: str
    """In plain words: what is drawn, and which direction is good."""
    x_label: str
    zero: bool = True
    """The vertical axis starts at 0."""
    best: float | None = None
    """Where on the x axis the best checkpoint is pointed out."""
    ends: tuple[float, ...] = ()
    """Places that the x axis holds besides those of the lines, so that neighbouring charts compare."""


def line_chart(chart: Chart, lines: Sequence[Line]) -> Html | None:
    """The figure; None when no line has any point."""
    thin = [Line(one.name, thinned(one.points), one.style, one.marked) for one in lines]
    drawn = [line for line in thin if any(value is not None for _, value in line.points)]
    if not drawn:
        return None
    values = [value for line in drawn for _, value in line.points if value is not None]
    y = _vertical(values, zero=chart.zero)
    places = [*chart.ends, *(place for line in drawn for place, _ in line.points)]
    x = fitted(places, start=_LEFT, end=WIDTH - _RIGHT, whole=True)
    parts: list[Child] = [_grid(x, y, chart.x_label)]
    if chart.best is not None:
        parts.append(_best_line(x.place(chart.best)))
    parts.extend(_curve(line, x, y) for line in drawn)
    note = chart.note + (" (logarithmic axis)" if y.log else "")
    return figure(chart.title, note, svg(parts, label=f"{chart.title}: {note}"), legend=drawn)


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> tuple[Point, ...]:
    """At most `most` points, each the mean of as many neighbours; values that are not finite become gaps."""
    clean = [(place, value if value is not None and math.isfinite(value) else None) for place, value in points]
    if len(clean) <= most:
        return tuple(clean)
    stretch = math.ceil(len(clean) / most)
    means: list[Point] = []
    for first in range(0, len(clean), stretch):
        part = clean[first : first + stretch]
        known = [value for _, value in part if value is not None]
        means.append((part[-1][0], sum(known) / len(known) if known else None))
    return tuple(means)


def _vertical(values: Sequence[float], *, zero: bool) -> Scale:
    start, end = HEIGHT - _BOTTOM, _TOP
    if zero and min(values) > 0 and max(values) / min(values) > _LOG_RATIO:
        return logarithmic(values, start=start, end=end)
    if not zero and min(values) >= 0 and max(values) <= 1 and max(values) - min(values) < _LEAST_SPAN:
        middle = min(max((min(values) + max(values)) / 2, _LEAST_SPAN / 2), 1 - _LEAST_SPAN / 2)
        values = [*values, middle - _LEAST_SPAN / 2, middle + _LEAST_SPAN / 2]
    return linear(values, start=start, end=end, zero=zero)


def _grid(x: Scale, y: Scale, x_label: str) -> Html:
    floor = HEIGHT - _BOTTOM
    rows = [
        [
            tag("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y.place(tick), y2=y.place(tick)),
            tag("text", label, x=_LEFT - 8, y=y.place(tick) + 4, text_anchor="end"),
        ]
        for tick, label in zip(y.ticks, y.labels(), strict=True)
    ]
    columns = [
        [
            tag("line", class_="axis", x1=x.place(tick), x2=x.place(tick), y1=floor, y2=floor + 4),
            tag("text", label, x=x.place(tick), y=floor + 18, text_anchor="middle"),
        ]
        for tick, label in zip(x.ticks, x.labels(), strict=True)
    ]
    axis = tag("line", class_="axis", x1=_LEFT, x2=WIDTH - _RIGHT, y1=floor, y2=floor)
    name = tag("text", x_label, class_="name", x=(_LEFT + WIDTH - _RIGHT) / 2, y=HEIGHT - 5, text_anchor="middle")
    return tag("g", rows, columns, axis, name, class_="axes")


def _best_line(place: float) -> Html:
    anchor = "end" if place > WIDTH - 40 else "middle"
    return tag(
        "g",
        tag("line", class_="best", x1=place, x2=place, y1=_TOP - 5, y2=HEIGHT - _BOTTOM),
        tag("text", "best", x=place, y=_TOP - 8, text_anchor=anchor),
    )


def _curve(line: Line, x: Scale, y: Scale) -> Html:
    places = [(x.place(at), None if value is None else y.place(value)) for at, value in line.points]
    path = tag("path", d=_path(places), class_=f"curve s{line.style}", stroke_dasharray=_dash(line.style))
    alone = len([1 for _, value in places if value is not None]) == 1
    if not (line.marked or alone):
        return path
    markers = [
        _marker(at, height, line.style, f"{line.name}, {short(point[0])}: {number(point[1])}")
        for (at, height), point in zip(places, line.points, strict=True)
        if height is not None
    ]
    return tag("g", path, markers)


def _path(places: Iterable[tuple[float, float | None]]) -> str:
    """Moves and lines; a gap lifts the pen."""
    commands, pen = [], "M"
    for at, height in places:
        if height is None:
            pen = "M"
            continue
        commands.append(f"{pen}{coordinate(at)} {coordinate(height)}")
        pen = "L"
    return "".join(commands)


def _marker(x: float, y: float, style: int, tooltip: str) -> Html:
    title = tag("title", tooltip)
    if style % 2:
        return tag("circle", title, cx=x, cy=y, r=3.5, class_=f"marker s{style}")
    return tag("rect", title, x=x - 3, y=y - 3, width=6.0, height=6.0, class_=f"marker s{style}")


def _dash(style: int) -> str | None:
    return _DASHES[style % len(_DASHES)]


def svg(children: Child, *, label: str, width: float = WIDTH, height: float = HEIGHT) -> Html:
    """A drawing that scales with the page; `label` is read out where it cannot be seen."""
    box = f"0 0 {coordinate(width)} {coordinate(height)}"
    return tag("svg", children, viewBox=box, role="img", aria_label=label, class_="chart")


def figure(title: str, note: str, drawing: Html, *, legend: Sequence[Line] = ()) -> Html:
    """A drawing with its title, its explanation and, for several lines, what is which."""
    samples = [_legend_entry(line) for line in legend] if len(legend) > 1 else []
    caption = tag(
        "figcaption",
        tag("strong", title),
        " ",
        tag("span", note, class_="note"),
        tag("span", samples, class_="legend") if samples else None,
    )
    return tag("figure", caption, drawing)


def _legend_entry(line: Line) -> Html:
    stroke = tag("path", d="M1 6L31 6", class_=f"curve s{line.style}", stroke_dasharray=_dash(line.style))
    marker = _marker(16.0, 6.0, line.style, line.name) if line.marked else None
    sample = tag("svg", stroke, marker, viewBox="0 0 32 12", width=32, height=12, aria_hidden="true")
    return tag("span", sample, " ", line.name, class_="entry")


def bar(share: float, *, width: float = 120.0, style: int = 0) -> Html:
    """A bar for a table cell: `share` of the width, between 0 and 1."""
    filled = min(max(share, 0.0), 1.0) * width if math.isfinite(share) else 0.0
    return tag(
        "svg",
        tag("rect", x=0.0, y=0.0, width=width, height=10.0, class_="bar-back"),
        tag("rect", x=0.0, y=0.0, width=filled, height=10.0, class_=f"bar s{style}"),
        viewBox=f"0 0 {coordinate(width)} 10",
        width=coordinate(width),
        height="10",
        class_="inline",
        aria_hidden="true",
    )


def dumbbell(before: float | None, after: float, *, width: float = 180.0) -> Html:
    """Before (hollow) and after (filled) on an axis from 0 to 1."""
    scale = Scale(0.0, 1.0, 7.0, width - 7.0, ())
    parts: list[Child] = [tag("line", class_="axis", x1=7.0, x2=width - 7.0, y1=7.0, y2=7.0)]
    if before is not None:
        parts.append(tag("line", class_="span", x1=scale.place(before), x2=scale.place(after), y1=7.0, y2=7.0))
        parts.append(tag("circle", cx=scale.place(before), cy=7.0, r=4.5, class_="hollow"))
    parts.append(tag("circle", cx=scale.place(after), cy=7.0, r=5.0, class_="bar s0"))
    box = f"0 0 {coordinate(width)} 14"
    return tag("svg", parts, viewBox=box, width=coordinate(width), height="14", class_="inline", aria_hidden="true")

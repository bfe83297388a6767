"""Bars side by side over an axis: counts or scores of neighbouring stretches."""

from __future__ import annotations

import math

from chainft.report.charts import HEIGHT, WIDTH, figure, svg
from chainft.report.markup import Html, tag
from chainft.report.scale import Scale, linear
from chainft.report.words import number, printable, short
from chainft.tasks.base import Chart

_LEFT, _RIGHT, _TOP, _FLOOR = 58.0, 14.0, 20.0, HEIGHT - 42.0
_MOST_NAMES = 12
_GAP = 0.15
"""Share of a bar's room that stays empty."""


def bar_chart(chart: Chart) -> Html | None:
    """A bar for each point of the first series, equally wide, each under its x; None without any finite point."""
    points = [point for one in chart.series[:1] for point in one.points if math.isfinite(point[1])]
    if not points:
        return None
    y = linear([height for _, height in points], start=_FLOOR, end=_TOP, zero=True)
    room = (WIDTH - _LEFT - _RIGHT) / len(points)
    drawing = svg(
        [_axes(y, chart.x), [_bar(index, point, room, y) for index, point in enumerate(points)], _names(points, room)],
        label=f"{chart.title}: {chart.note}",
    )
    return figure(chart.title, chart.note, drawing)


def _axes(y: Scale, name: str) -> Html:
    rows = [
        [
            tag("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y.place(tick), y2=y.place(tick)),
            tag("text", label, x=_LEFT - 8, y=y.place(tick) + 4, text_anchor="end"),
        ]
        for tick, label in zip(y.ticks, y.labels(), strict=True)
    ]
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    below = tag("text", name, class_="name", x=middle, y=HEIGHT - 5, text_anchor="middle")
    return tag("g", rows, below, class_="axes")


def _bar(index: int, point: tuple[float | str, float], room: float, y: Scale) -> Html:
    floor, end = y.place(0.0), y.place(point[1])
    return tag(
        "rect",
        tag("title", f"{_name(point[0])}: {number(point[1])}"),
        x=_LEFT + room * (index + _GAP / 2),
        y=min(floor, end),
        width=room * (1 - _GAP),
        height=abs(floor - end),
        class_="bar s0",
    )


def _names(points: list[tuple[float | str, float]], room: float) -> Html:
    every = math.ceil(len(points) / _MOST_NAMES)
    return tag(
        "g",
        [
            tag("text", _name(at), x=_LEFT + room * (index + 0.5), y=_FLOOR + 18, text_anchor="middle")
            for index, (at, _) in enumerate(points)
            if index % every == 0
        ],
        class_="axes",
    )


def _name(at: float | str) -> str:
    return printable(at) if isinstance(at, str) else short(at)

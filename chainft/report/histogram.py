"""The distribution of the lengths of examples, with the limit of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chainft.report.charts import HEIGHT, WIDTH, Line, figure, svg
from chainft.report.markup import Child, Html, coordinate, tag
from chainft.report.scale import Scale, fitted, linear

_LEFT, _RIGHT, _TOP, _FLOOR = 58.0, 14.0, 22.0, HEIGHT - 42.0
_FAR = 1.6
"""A limit further right than this many times the longest example is only told, for the bars to stay wide."""


@dataclass(frozen=True)
class Lengths:
    """Shares of a split's examples between neighbouring edges."""

    name: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]


def read_lengths(name: str, record: Mapping[str, Any] | None) -> Lengths | None:
    """The histogram of a split in `data_card.json`; None where it is empty."""
    counts = [float(count) for count in (record or {}).get("counts") or ()]
    edges = [float(edge) for edge in (record or {}).get("edges") or () if edge is not None and math.isfinite(edge)]
    total = sum(counts)
    if total <= 0 or len(edges) < 2 or not len(counts) - 1 <= len(edges) <= len(counts) + 1:
        return None
    while len(edges) <= len(counts):  # The last stretch is open: draw it as wide as the one before.
        edges.append(2 * edges[-1] - edges[-2])
    return Lengths(name, tuple(edges), tuple(count / total for count in counts))


def length_chart(splits: Sequence[Lengths], max_length: int | None) -> Html | None:
    """Train as bars, the other splits as outlines; the limit as a vertical line."""
    if not splits:
        return None
    longest = max(edge for split in splits for edge in _used(split))
    beyond = bool(max_length) and float(max_length or 0) > _FAR * longest
    ends = [0.0, longest] + ([float(max_length)] if max_length and not beyond else [])
    x = fitted(ends, start=_LEFT, end=WIDTH - _RIGHT, whole=True)
    y = linear([share for split in splits for share in split.shares], start=_FLOOR, end=_TOP, zero=True, count=4)
    parts: list[Child] = [_axes(x, y), _bars(splits[0], x, y)]
    parts.extend(_outline(split, x, y, style) for style, split in enumerate(splits[1:], start=1))
    if max_length:
        parts.append(_far_limit(max_length) if beyond else _limit(x.place(float(max_length)), max_length))
    note = "share of the examples of each split by their number of tokens, before any is cut into windows"
    legend = [Line(split.name, (), style) for style, split in enumerate(splits)]
    return figure("Length of examples", note, svg(parts, label=f"Length of examples: {note}"), legend=legend)


def _used(split: Lengths) -> tuple[float, ...]:
    """The edges up to the last stretch that holds anything."""
    last = max(index for index, share in enumerate(split.shares) if share > 0)
    return split.edges[: last + 2]


def _axes(x: Scale, y: Scale) -> Html:
    rows = [
        [
            tag("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y.place(tick), y2=y.place(tick)),
            tag("text", label, x=_LEFT - 8, y=y.place(tick) + 4, text_anchor="end"),
        ]
        for tick, label in zip(y.ticks, y.labels(), strict=True)
    ]
    columns = [
        tag("text", label, x=x.place(tick), y=_FLOOR + 18, text_anchor="middle")
        for tick, label in zip(x.ticks, x.labels(), strict=True)
    ]
    axis = tag("line", class_="axis", x1=_LEFT, x2=WIDTH - _RIGHT, y1=_FLOOR, y2=_FLOOR)
    name = tag("text", "tokens", class_="name", x=(_LEFT + WIDTH - _RIGHT) / 2, y=HEIGHT - 5, text_anchor="middle")
    return tag("g", rows, columns, axis, name, class_="axes")


def _bars(split: Lengths, x: Scale, y: Scale) -> Html:
    bars = []
    for low, high, share in zip(split.edges, split.edges[1:], split.shares, strict=False):
        if share > 0:
            left, right, top = x.place(low), x.place(high), y.place(share)
            tip = tag("title", f"{split.name}, {low:g} to {high:g} tokens: {share:.4f}")
            width = max(right - left - 1, 0.5)
            bars.append(tag("rect", tip, x=left, y=top, width=width, height=_FLOOR - top, class_="bar soft s0"))
    return tag("g", bars)


def _outline(split: Lengths, x: Scale, y: Scale, style: int) -> Html:
    edges = _used(split)
    commands = [f"M{coordinate(x.place(edges[0]))} {coordinate(_FLOOR)}"]
    for low, high, share in zip(edges, edges[1:], split.shares, strict=False):
        height = coordinate(y.place(share))
        commands.append(f"L{coordinate(x.place(low))} {height}L{coordinate(x.place(high))} {height}")
    commands.append(f"L{coordinate(x.place(edges[-1]))} {coordinate(_FLOOR)}")
    dashes = {1: "7 4", 2: "2 3"}.get(style)
    return tag("path", d="".join(commands), class_=f"curve s{style}", stroke_dasharray=dashes)


def _limit(place: float, max_length: int) -> Html:
    anchor, offset = ("end", -5.0) if place > WIDTH / 2 else ("start", 5.0)
    return tag(
        "g",
        tag("line", class_="best", x1=place, x2=place, y1=_TOP - 16, y2=_FLOOR),
        tag("text", f"max_length {max_length}", x=place + offset, y=_TOP - 8, text_anchor=anchor),
    )


def _far_limit(max_length: int) -> Html:
    return tag("text", f"max_length {max_length} lies beyond →", x=WIDTH - _RIGHT, y=_TOP - 8, text_anchor="end")

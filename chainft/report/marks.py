"""Texts with marked stretches: what was right, missed, wrong or marked without reason, told by sign and line.

✓ solid line: gold and predicted agree · − dashed: missed · ≠ double: overlaps, but another type or other
borders · + dotted: predicted where nothing is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from chainft.report.markup import Child, Html, tag
from chainft.tasks.base import Mark, Mistake

Status = Literal["right", "missing", "wrong", "spurious"]
SIGNS: dict[Status, str] = {"right": "✓", "missing": "−", "wrong": "≠", "spurious": "+"}
WORDS: dict[Status, str] = {
    "right": "right",
    "missing": "missed",
    "wrong": "wrong type or borders",
    "spurious": "nothing is there",
}
LONGEST_TEXT = 480
_CONTEXT = 90


@dataclass(frozen=True)
class Judged:
    """A mark and how it stands to the other side."""

    mark: Mark
    status: Status


def judge(mistake: Mistake) -> tuple[list[Judged], list[Judged]]:
    """The gold and the predicted marks with their status; marks outside the text are left out."""
    gold = _sound(mistake.gold_marks, len(mistake.text))
    predicted = _sound(mistake.predicted_marks, len(mistake.text))
    return (
        [Judged(mark, _status(mark, predicted, alone="missing")) for mark in gold],
        [Judged(mark, _status(mark, gold, alone="spurious")) for mark in predicted],
    )


def marked_rows(mistake: Mistake) -> list[Html]:
    """The text as gold has it and as predicted, one row each (more where marks overlap)."""
    gold, predicted = judge(mistake)
    pieces = visible_stretches(mistake.text, [judged.mark for judged in (*gold, *predicted)])
    rows = []
    for name, side in (("gold", gold), ("predicted", predicted)):
        for layer in _layers(side) or [[]]:
            text = tag("p", _text(mistake.text, layer, pieces), class_="marked", dir="auto")
            rows.append(tag("div", tag("span", name, class_="side"), text, class_="row"))
    return rows


def visible_stretches(text: str, marks: Iterable[Mark]) -> list[tuple[int, int]]:
    """The parts of a long text that are shown: around its marks, or its beginning."""
    if len(text) <= LONGEST_TEXT:
        return [(0, len(text))]
    around = sorted((max(0, mark.start - _CONTEXT), min(len(text), mark.end + _CONTEXT)) for mark in marks)
    stretches: list[tuple[int, int]] = []
    for start, end in around or [(0, LONGEST_TEXT)]:
        if stretches and start <= stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], max(end, stretches[-1][1]))
        elif start < end:
            stretches.append((start, end))
    return stretches


def legend() -> Html:
    """What the signs mean."""
    entries = [
        tag("span", tag("mark", tag("span", SIGNS[status], class_="sign"), class_=status), f" {WORDS[status]}")
        for status in SIGNS
    ]
    return tag("p", entries, class_="key")


def _text(text: str, layer: Sequence[Judged], stretches: Sequence[tuple[int, int]]) -> list[Child]:
    parts: list[Child] = []
    for first, last in stretches:
        if first > 0:
            parts.append(tag("span", " … ", class_="cut"))
        position = first
        for judged in layer:
            mark = judged.mark
            if first <= mark.start and mark.end <= last:
                parts += [text[position : mark.start], _mark(text[mark.start : mark.end], judged)]
                position = mark.end
        parts.append(text[position:last])
    if stretches and stretches[-1][1] < len(text):
        parts.append(tag("span", " …", class_="cut"))
    return parts


def _mark(words: str, judged: Judged) -> Html:
    sign = tag("span", SIGNS[judged.status], " ", judged.mark.label, class_="sign")
    return tag("mark", words, sign, class_=judged.status, title=f"{judged.mark.label}: {WORDS[judged.status]}")


def _layers(side: Sequence[Judged]) -> list[list[Judged]]:
    """Groups of marks that don't overlap, so that each can be drawn in one row."""
    layers: list[list[Judged]] = []
    for judged in sorted(side, key=lambda one: (one.mark.start, one.mark.end)):
        free = next((layer for layer in layers if layer[-1].mark.end <= judged.mark.start), None)
        if free is None:
            layers.append([judged])
        else:
            free.append(judged)
    return layers


def _status(mark: Mark, others: Sequence[Mark], *, alone: Literal["missing", "spurious"]) -> Status:
    if mark in others:
        return "right"
    overlapping = any(other.start < mark.end and mark.start < other.end for other in others)
    return "wrong" if overlapping else alone


def _sound(marks: Iterable[Mark], length: int) -> list[Mark]:
    return [mark for mark in marks if 0 <= mark.start < mark.end <= length]

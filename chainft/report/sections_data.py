"""Sections of the page about the data: its warnings, labels and lengths, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chainft.report.charts import bar
from chainft.report.histogram import length_chart, read_lengths
from chainft.report.marks import LONGEST_TEXT, legend, marked_rows
from chainft.report.markup import Child, Html, tag
from chainft.report.run_files import RunFacts
from chainft.report.sections_scores import section
from chainft.report.words import MISSING, number, plural
from chainft.tasks.base import Mistake

_SPLITS = ("train", "validation", "test")
_MOST_LABELS = 30
_FEW_LABELS = 12
_FEW_MISTAKES = 20
_BRIEF = 90
"""Two answers of together so many characters stand on one line."""
_OUTSIDE = "O"


def findings_section(facts: RunFacts) -> Html | None:
    """What the data contract noticed, gravest first."""
    order = ("error", "warning", "info")
    found = sorted(
        facts.card.get("findings") or (),
        key=lambda one: order.index(one["severity"]) if one["severity"] in order else len(order),
    )
    if not found:
        return None
    grave = [one for one in found if one["severity"] != "info"]
    notes = [one for one in found if one["severity"] == "info"]
    folded = tag("details", tag("summary", plural(len(notes), "note")), tag("ul", map(_finding, notes)))
    return section(
        "findings",
        "Noticed in the data",
        tag("ul", map(_finding, grave), class_="findings") if grave else None,
        folded if notes else None,
    )


def _finding(finding: Mapping[str, Any]) -> Html:
    count = int(finding.get("count") or 1)
    more = f" and {plural(count - 1, 'more place')}" if count > 1 else ""
    where = tag("span", tag("code", str(finding["where"])), more, class_="advice") if finding.get("where") else None
    advice = tag("span", str(finding["help"]), class_="advice") if finding.get("help") else None
    label = tag("span", str(finding["severity"]), class_="severity")
    return tag("li", label, " ", str(finding["message"]), where, advice, class_=f"finding {finding['severity']}")


def data_section(facts: RunFacts) -> Html | None:
    """How much data there is, with which labels and lengths."""
    splits = {name: facts.card["splits"][name] for name in _SPLITS if name in (facts.card.get("splits") or {})}
    if not splits:
        return None
    lengths = [read for name, split in splits.items() if (read := read_lengths(name, split.get("lengths")))]
    limits = [int(split["max_length"]) for split in splits.values() if split.get("max_length")]
    return section(
        "data",
        "Data",
        _sizes(splits, facts.plan.get("data") or {}),
        _labels(splits),
        length_chart(lengths, limits[0] if limits else None),
    )


def _sizes(splits: Mapping[str, Any], planned: Mapping[str, Any]) -> Html:
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            [
                tag("td", number(value), class_="number")
                for value in (
                    split.get("examples"),
                    (planned.get(name) or {}).get("features"),
                    (planned.get(name) or {}).get("tokens"),
                )
            ],
        )
        for name, split in splits.items()
    ]
    head = [tag("th", "split", scope="col")]
    head += [tag("th", name, scope="col", class_="number") for name in ("examples", "sequences", "tokens")]
    return tag("div", tag("table", tag("thead", tag("tr", head)), tag("tbody", rows)), class_="scroll")


def _labels(splits: Mapping[str, Any]) -> Html | None:
    counts = {name: dict(split.get("labels") or {}) for name, split in splits.items()}
    totals: dict[str, int] = {}
    for split in counts.values():
        for label, count in split.items():
            totals[label] = totals.get(label, 0) + int(count)
    if not totals:
        return None
    drawn = sorted((label for label in totals if label != _OUTSIDE), key=lambda label: -totals[label])
    outside = (
        tag("p", f"Not drawn: {totals[_OUTSIDE]:,} words outside of entities ({_OUTSIDE}).", class_="note")
        if _OUTSIDE in totals
        else None
    )
    if len(drawn) <= _MOST_LABELS:
        return tag("div", tag("h3", "Labels"), _label_table(drawn, counts), outside)
    return tag(
        "div",
        tag("h3", f"Labels: the {_FEW_LABELS} most frequent and the {_FEW_LABELS} rarest of {len(drawn)}"),
        _label_table(drawn[:_FEW_LABELS], counts),
        _label_table(drawn[-_FEW_LABELS:], counts),
        tag("details", tag("summary", f"All {len(drawn)} labels"), _label_table(drawn, counts)),
        outside,
    )


def _label_table(labels: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> Html:
    """Counts, and bars of each split's own share, so that splits of other sizes compare."""
    sums = {name: sum(n for label, n in split.items() if label != _OUTSIDE) or 1 for name, split in counts.items()}
    most = max((split[label] / sums[name] for name, split in counts.items() for label in split if label != _OUTSIDE))
    rows = []
    for label in labels:
        cells: list[Child] = [tag("th", tag("bdi", label), scope="row")]
        for style, (name, split) in enumerate(counts.items()):
            count = split.get(label)
            cells.append(tag("td", MISSING if count is None else number(count), class_="number"))
            share = (count or 0) / sums[name] / most if most else 0.0
            cells.append(tag("td", bar(share, width=90.0, style=style), class_="bar-cell"))
        rows.append(tag("tr", cells))
    head = [
        tag("th", "label", scope="col"),
        [[tag("th", name, scope="col", class_="number"), tag("td")] for name in counts],
    ]
    return tag(
        "div", tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="labels"), class_="scroll"
    )


def mistakes_section(facts: RunFacts) -> Html | None:
    """The worst mistakes; spans are marked where there are some."""
    if not facts.mistakes:
        return None
    marked = any(one.gold_marks or one.predicted_marks for one in facts.mistakes)
    shown = facts.outcome.shown
    return section(
        "mistakes",
        f"The worst mistakes{f' on {shown[0]}' if shown else ''}",
        legend() if marked else None,
        _listed(facts.mistakes[:_FEW_MISTAKES]),
        tag(
            "details",
            tag("summary", plural(len(more), "more mistake")),
            _listed(more, start=_FEW_MISTAKES + 1),
        )
        if (more := facts.mistakes[_FEW_MISTAKES:])
        else None,
    )


def _listed(mistakes: Sequence[Mistake], start: int = 1) -> Html:
    items = [tag("li", _mistake(one), class_="mistake") for one in mistakes]
    return tag("ol", items, class_="mistakes", start=start if start > 1 else None)


def _mistake(mistake: Mistake) -> list[Child]:
    if mistake.gold_marks or mistake.predicted_marks:
        return list(marked_rows(mistake))
    answers = [
        tag("div", tag("span", name, class_="side"), tag("p", _answer(answer), dir="auto"), class_="row")
        for name, answer in (("gold", mistake.gold), ("predicted", mistake.predicted))
    ]
    brief = len(mistake.gold) + len(mistake.predicted) <= _BRIEF
    return [_long_text(mistake.text), tag("div", answers, class_="answers") if brief else answers]


def _answer(text: str) -> Child:
    return text if text.strip() else tag("em", "nothing")


def _long_text(text: str) -> Html:
    if len(text) <= LONGEST_TEXT:
        return tag("p", text, class_="text", dir="auto")
    summary = tag("summary", text[:LONGEST_TEXT], " …", dir="auto")
    return tag("details", summary, tag("p", text[LONGEST_TEXT:], dir="auto"), class_="text")

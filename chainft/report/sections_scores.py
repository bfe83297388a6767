"""Sections of the page about scores: before and after, per class, what was taken for what."""

from __future__ import annotations

from collections.abc import Sequence

from chainft.metrics._direction import falls
from chainft.report.baselines import baselines_table, verdicts
from chainft.report.charts import bar, dumbbell
from chainft.report.confusion import confusion_view
from chainft.report.markup import Child, Html, tag
from chainft.report.run_files import Outcome, RunFacts
from chainft.report.tables import MOST_ROWS, SHORT_ROWS, Row, deciding_column, split_rows
from chainft.report.words import change, judgement, meaning, number
from chainft.tasks.base import Scores, Table

_ENTITIES = (
    "Counts whole entities: one is found only if its type, its first and its last word are all right. "
    "This is the score to compare with other tools and papers."
)
_TOKENS = (
    "Counts single words by their tag. Most words are outside of entities and easy, so these numbers are "
    "higher than entity scores: never compare the two."
)
_UNITS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("entit", "span"), _ENTITIES),
    (("token", "tag", "word"), _TOKENS),
    (("class", "label", "text"), "Counts texts."),
)

_WHY_BOLD = "The metric in bold chose the best checkpoint."


def scores_section(facts: RunFacts) -> Html | None:
    """Every value, before and after training."""
    outcome = facts.outcome
    if outcome.shown is None:
        return None
    split, scores = outcome.shown
    before = outcome.before if split == "test" else None
    validation = outcome.validation if split == "test" else None
    names = sorted(scores.values, key=lambda name: (name != outcome.main_metric, name == "loss"))
    rows = [_value_row(name, scores, before, validation, main=name == outcome.main_metric) for name in names]
    head = [
        tag("th", "metric", scope="col"),
        tag("th", "before", scope="col", class_="number") if before else None,
        tag("th", "after" if before else split, scope="col", class_="number"),
        tag("th", "change", scope="col", class_="number") if before else None,
        tag("th", "from 0 to 1", scope="col"),
        tag("th", "validation", scope="col", class_="number") if validation else None,
    ]
    hollow = "Hollow: before training; filled: after. " if before else ""
    return section(
        "scores",
        f"Scores on {split}",
        tag("div", tag("table", tag("thead", tag("tr", head)), tag("tbody", rows), class_="scores"), class_="scroll"),
        tag("p", f"{hollow}{_WHY_BOLD if facts.chosen else ''}", class_="note"),
        _baselines(outcome),
    )


def _baselines(outcome: Outcome) -> Child:
    """The trained model beside simple answers."""
    table = baselines_table(outcome)
    if table is None:
        return None
    note = "What is reached without the model; training was worth it where the model does better."
    told = [tag("li", f"{one.metric} {number(one.value)}: {one.words}") for one in verdicts(outcome)]
    return [
        tag("h3", table.title),
        tag("p", note, class_="note"),
        tag("ul", told) if told else None,
        _grid(table, table.rows, (), bars=False),
    ]


def _value_row(name: str, scores: Scores, before: Scores | None, validation: Scores | None, *, main: bool) -> Html:
    after, old = scores.values[name], before.values.get(name) if before else None
    fraction = not falls(name) and 0 <= after <= 1 and (old is None or 0 <= old <= 1)
    explained = scores.meanings.get(name) or meaning(name, brief=True)
    return tag(
        "tr",
        tag("th", name, tag("span", explained, class_="meaning") if explained else None, scope="row"),
        tag("td", number(old), class_="number") if before else None,
        tag("td", tag("strong", number(after)), class_="number"),
        tag("td", change(old, after), class_=f"number {judgement(name, old, after)}") if before else None,
        tag("td", dumbbell(old, after) if fraction else None),
        tag("td", number(validation.values.get(name)), class_="number") if validation else None,
        class_="main" if main else None,
    )


def classes_section(facts: RunFacts) -> Html | None:
    """The tables of the shown split, one per thing that is counted."""
    shown = facts.outcome.shown
    if shown is None or not shown[1].tables:
        return None
    tables = [class_table(table) for table in shown[1].tables if table.rows]
    return section("classes", f"Per class, on {shown[0]}", tag("div", tables, class_="parts")) if tables else None


def class_table(table: Table) -> Html:
    """A table with bars at its deciding column; many classes are folded to the worst and the best."""
    rows, column = split_rows(table), deciding_column(table)
    heading = [tag("h3", table.title), tag("p", unit_note(table), class_="note") if unit_note(table) else None]
    if len(rows.classes) <= MOST_ROWS or column is None:
        return tag("div", heading, _grid(table, rows.classes, rows.averages))
    ranked = sorted(rows.classes, key=lambda row: _rank(row, column))
    worst, best = ranked[:SHORT_ROWS], ranked[-SHORT_ROWS:]
    ends = [
        tag("div", tag("h4", f"The {SHORT_ROWS} worst of {len(ranked)}"), _grid(table, worst, ())),
        tag("div", tag("h4", f"The {SHORT_ROWS} best"), _grid(table, best, rows.averages)),
    ]
    every = tag("details", tag("summary", f"All {len(ranked)} classes"), _grid(table, rows.classes, rows.averages))
    return tag("div", heading, tag("div", ends, class_="parts"), every)


def unit_note(table: Table) -> str | None:
    """What a table counts: as it says itself, else by its title; None where we can't tell."""
    if table.note:
        return table.note
    title = table.title.casefold()
    found = [(title.find(word), note) for words, note in _UNITS for word in words if word in title]
    return min(found)[1] if found else None


def _grid(table: Table, classes: Sequence[Row], averages: Sequence[Row], *, bars: bool = True) -> Html:
    column = deciding_column(table) if bars else None
    head = [
        [
            tag("th", name, scope="col", class_="number" if index else None),
            tag("td") if index == column else None,
        ]
        for index, name in enumerate(table.columns)
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("thead", tag("tr", head)),
            tag("tbody", [_grid_row(row, column) for row in classes]),
            tag("tfoot", [_grid_row(row, column) for row in averages]) if averages else None,
        ),
        class_="scroll",
    )


def _grid_row(row: Row, column: int | None) -> Html:
    cells: list[Child] = [tag("th", tag("bdi", number(row[0])), scope="row")]
    for index, cell in enumerate(row[1:], start=1):
        cells.append(tag("td", number(cell), class_="number"))
        if index == column:
            cells.append(
                tag("td", bar(float(cell), width=90.0) if isinstance(cell, int | float) else None, class_="bar-cell")
            )
    return tag("tr", cells)


def _rank(row: Row, column: int) -> float:
    cell = row[column]
    return float(cell) if isinstance(cell, int | float) else -1.0


def confusion_section(facts: RunFacts) -> Html | None:
    """What was taken for what."""
    shown = facts.outcome.shown
    confusions = [one for one in shown[1].confusions if any(map(any, one.counts))] if shown else []
    if shown is None or not confusions:
        return None
    return section("confusion", f"What was taken for what, on {shown[0]}", [confusion_view(one) for one in confusions])


def section(anchor: str, title: str, *content: Child) -> Html:
    """A part of the page."""
    return tag("section", tag("h2", title), content, id=anchor)

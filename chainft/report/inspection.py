"""What `chainft evaluate` and `chainft check data` print: scores of one split, and what the data look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from chainft.report.console import output
from chainft.report.tables import render, shorten
from chainft.report.words import meaning, printable
from chainft.tasks.base import Table

MOST_LABELS = 30


def print_scores(record: Mapping[str, Any], *, console: Console | None = None) -> None:
    """The scores of a split: `{run, split, examples, values, tables}`."""
    target = console or output()
    split, count = record["split"], record["examples"]
    rows = tuple((name, value) for name, value in record["values"].items())
    target.print(render(Table(f"Scores on {split}, {count:,} examples", ("metric", split), rows), target))
    for name, _ in rows:
        if explained := meaning(name):
            target.print(Text(f"  {name}: {explained}", style="dim"), soft_wrap=True)
    target.print()
    for entry in record["tables"]:
        table = Table(entry["title"], tuple(entry["columns"]), tuple(tuple(row) for row in entry["rows"]))
        shown, left_out = shorten(table)
        target.print(render(Table(f"{shown.title} ({split})", shown.columns, shown.rows), target))
        if left_out:
            target.print(Text("  worst and best classes; --json gives all of them", style="dim"))
        target.print()


def print_data_card(card: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Counts, labels and lengths of each split: the content of `data_card.json`."""
    target = console or output()
    splits: Mapping[str, Any] = card["splits"]
    rows = tuple((name, facts["examples"], *_lengths(facts)) for name, facts in splits.items())
    columns = ("split", "examples", "longest (tokens)", "limit (tokens)")
    target.print(render(Table("Examples", columns, rows), target))
    target.print()
    labels = list(dict.fromkeys(label for facts in splits.values() for label in facts["labels"]))
    if labels:
        shown = labels[:MOST_LABELS]
        counts = tuple(
            (printable(label), *(facts["labels"].get(label, 0) for facts in splits.values())) for label in shown
        )
        target.print(render(Table("Labels", ("label", *splits), counts), target))
        if len(labels) > len(shown):
            target.print(Text(f"  and {len(labels) - len(shown)} more; --json gives all of them", style="dim"))
        target.print()


def _lengths(facts: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The end of the last bin of lengths that holds a feature, and the limit; unknown without a tokenizer."""
    if "lengths" not in facts:
        return None, None
    filled = [index for index, count in enumerate(facts["lengths"]["counts"]) if count]
    return (facts["lengths"]["edges"][filled[-1] + 1] - 1 if filled else 0), facts["max_length"]

"""What `chainft evaluate` and `chainft check data` print: scores of one split, and what the data look like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from chainft.report.console import output, print_tables
from chainft.report.run_files import scores_of
from chainft.report.tables import render, shorten_counts
from chainft.report.words import meaning, plural, printable
from chainft.tasks.base import Table


def print_scores(record: Mapping[str, Any], *, console: Console | None = None) -> None:
    """The scores of a split: `{run, split, examples, values, tables}`."""
    target, split = console or output(), printable(record["split"])
    scores = scores_of(record)
    if scores is None or not scores.values:
        target.print(Text(f"No scores: {split} has no examples."))
        return
    rows = tuple(scores.values.items())
    title = f"Scores on {plural(int(record['examples']), f'{split} example')}"
    target.print(render(Table(title, ("metric", "value"), rows), target))
    for name, _ in rows:
        if explained := scores.meanings.get(name) or meaning(name, brief=True):
            target.print(Text(f"  {printable(name)}: {explained}", style="dim"), soft_wrap=True)
    target.print()
    print_tables(target, scores, split, pointer="--json gives all of them")


def print_data_card(card: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Counts, labels and lengths of each split: the content of `data_card.json`."""
    target = console or output()
    splits: Mapping[str, Any] = card["splits"]
    rows = tuple((name, facts["examples"], *_lengths(facts)) for name, facts in splits.items())
    columns = ("split", "examples", "longest (tokens)", "limit (tokens)")
    target.print(render(Table("Examples", columns, rows), target))
    target.print()
    totals: dict[str, int] = {}
    for facts in splits.values():
        for label, count in (facts.get("labels") or {}).items():
            totals[label] = totals.get(label, 0) + count
    if not totals:
        return
    labels = sorted(totals, key=lambda label: -totals[label])
    counts = tuple(
        (label, *((facts.get("labels") or {}).get(label, 0) for facts in splits.values())) for label in labels
    )
    shown, left_out = shorten_counts(Table("How often each label comes up", ("label", *splits), counts))
    target.print(render(shown, target))
    if left_out:
        target.print(Text("  most frequent and rarest labels; --json gives all of them", style="dim"))
    target.print()


def _lengths(facts: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The end of the last bin of lengths that holds an example, and the limit; unknown without a tokenizer."""
    if "lengths" not in facts:
        return None, None
    filled = [index for index, count in enumerate(facts["lengths"]["counts"]) if count]
    return (facts["lengths"]["edges"][filled[-1] + 1] - 1 if filled else 0), facts["max_length"]

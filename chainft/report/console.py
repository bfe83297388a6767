"""What a person reads on the terminal before and after training.

Results go to standard output, so that they can be piped; everything else goes to standard error. Nothing is
coloured where the output is no terminal or `NO_COLOR` is set. Text from data is shown as text: neither
rich's markup nor control characters in a label have any effect.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from chainft.report.baselines import baselines_table, verdicts
from chainft.report.commands import next_commands
from chainft.report.plan_words import plan_lines
from chainft.report.run_files import Outcome, outcome_of
from chainft.report.tables import render, shorten
from chainft.report.words import change, judgement, meaning, number, plural, printable, short
from chainft.tasks.base import Scores, Table

_SEVERITY = {"error": "bold red", "warning": "yellow", "info": "dim"}
_KEY_WIDTH = 11


@cache
def messages() -> Console:
    """The console for everything but results: standard error. Progress and log share it."""
    return _console(stderr=True)


@cache
def output() -> Console:
    """The console for results: standard output."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    return _console(stderr=False)


def _console(*, stderr: bool) -> Console:
    plain = bool(os.environ.get("NO_COLOR"))
    is_worker = os.environ.get("RANK", "0") != "0"  # Of several processes the first one speaks.
    colours: Any = None if plain else "auto"
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, color_system=colours, quiet=is_worker)


def print_plan(plan: Mapping[str, Any], *, quiet: bool = False, console: Console | None = None) -> None:
    """What will be trained on what, in how many steps, for how long: the content of `plan.json`."""
    if quiet:
        return
    target = console or messages()
    target.print(Text.assemble(("Plan", "bold"), f"  {printable(plan['task'])}, run folder {printable(plan['run'])}"))
    for key, text in plan_lines(plan):
        _print_pair(target, key, text)
    target.print()


def print_findings(
    findings: Iterable[Mapping[str, Any]], *, quiet: bool = False, console: Console | None = None
) -> None:
    """Each finding of the data contract: severity, what, where, what to do. With `quiet`, errors only."""
    target = console or messages()
    for finding in findings:
        severity = str(finding["severity"])
        if quiet and severity != "error":
            continue
        count = finding.get("count") or 1
        line = Text(f"{severity}[data/{finding['slug']}]", style=_SEVERITY.get(severity, ""))
        line.append(f": {printable(finding['message'])}", style="default")
        target.print(line, soft_wrap=True)
        if finding.get("where"):
            more = f" and {plural(count - 1, 'more place')}" if count > 1 else ""
            target.print(Text(f"  --> {printable(finding['where'])}{more}"), soft_wrap=True)
        if finding.get("help"):
            target.print(Text(f"  help: {printable(finding['help'])}"), soft_wrap=True)


def print_results(results: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Scores before and after, then the tables per class, each titled by what it counts."""
    target = console or output()
    outcome = outcome_of(results)
    if outcome.shown is None:
        target.print(Text("No scores: the run has neither test nor validation examples."))
        return
    _print_headline(target, outcome)
    target.print(render(_values_table(outcome), target))
    target.print()
    if chosen := results.get("tuned"):
        told = ", ".join(
            f"task.{name} = {short(value) if isinstance(value, float) else value}" for name, value in chosen.items()
        )
        target.print(Text(f"Chosen on validation: {printable(told)}"), soft_wrap=True)
        target.print()
    if compared := baselines_table(outcome):
        target.print(render(compared, target))
        target.print()
    split, scores = outcome.shown
    print_tables(target, scores, split, pointer="all of them are in report.html")


def print_tables(console: Console, scores: Scores, split: str, *, pointer: str) -> None:
    """The tables of a split; `pointer` says where the classes are that do not fit."""
    for table in scores.tables:
        shown, left_out = shorten(table)
        console.print(render(Table(f"{shown.title} ({split})", shown.columns, shown.rows), console))
        if left_out:
            console.print(Text(f"  worst and best classes; {pointer}", style="dim"))
        console.print()


def _print_headline(console: Console, outcome: Outcome) -> None:
    metric = outcome.main_metric
    split, scores = outcome.shown or ("", None)
    if metric is None or scores is None or metric not in scores.values:
        return
    value = scores.values[metric]
    before = outcome.before.values.get(metric) if outcome.before and split == "test" else None
    line = Text.assemble((f"{metric} on {split}: ", "bold"))
    if before is not None:
        line.append(f"{number(before)} before, ")
    line.append(
        f"{number(value)} after training",
        style="bold red" if judgement(metric, before, value) == "worse" else "bold green",
    )
    console.print(line, soft_wrap=True)
    for one in verdicts(outcome):
        text = f"  {one.words}" if one.metric == metric else f"  {one.metric} {number(one.value)}: {one.words}"
        console.print(Text(printable(text), style="default" if one.is_better else "bold red"), soft_wrap=True)
    if explained := scores.meanings.get(metric) or meaning(metric):
        for part in Text(explained, style="dim").wrap(console, max(20, console.width - 2)):
            part.rstrip()
            console.print(Text("  ").append_text(part))
    console.print()


def _values_table(outcome: Outcome) -> Table:
    """All values: test before, after and change; validation last."""
    names = list(dict.fromkeys(name for scores in _all(outcome) for name in scores.values))
    names.sort(key=lambda name: (name != outcome.main_metric, name == "loss"))
    columns = ["metric"]
    if outcome.after:
        columns += ["before", "after", "change"] if outcome.before else ["test"]
    if outcome.validation:
        columns.append("validation")
    rows = []
    for name in names:
        before, after, validation = (
            scores.values.get(name) if scores else None
            for scores in (outcome.before, outcome.after, outcome.validation)
        )
        cells = {
            "before": before,
            "after": after,
            "test": after,
            "change": change(before, after),
            "validation": validation,
        }
        rows.append((name, *(cells[column] for column in columns[1:])))
    title = "Test before and after training" if outcome.before and outcome.after else "Scores after training"
    return Table(title, tuple(columns), tuple(rows))


def _all(outcome: Outcome) -> list[Any]:
    return [scores for scores in (outcome.after, outcome.validation, outcome.before) if scores]


def print_next(
    run: Path, task: str, *, tested: bool = True, quiet: bool = False, console: Console | None = None
) -> None:
    """The commands that make use of the run, ready to be copied; `tested`: it has test data."""
    if quiet:
        return
    target = console or messages()
    target.print(Text("Next", style="bold"))
    if (run / "report.html").is_file():
        _print_pair(target, "look", f"{run / 'report.html'}  (open it in a browser)")
    _print_pair(target, "model", f"{run / 'model'}  (a Hugging Face folder)")
    for command in next_commands(run, task, tested=tested):
        target.print(Text(f"  {command.line}"), soft_wrap=True)
        target.print(Text(f"      {command.purpose}", style="dim"))


def _print_pair(console: Console, key: str, text: str) -> None:
    line = Text(f"  {key:<{_KEY_WIDTH}}", style="dim")
    line.append(printable(text), style="default not dim")
    if console.width < len(line) and " " in text:
        hanging = Text(printable(text)).wrap(console, max(20, console.width - _KEY_WIDTH - 2))
        for index, part in enumerate(hanging):
            part.rstrip()
            label = Text(f"  {key if index == 0 else '':<{_KEY_WIDTH}}", style="dim")
            console.print(label.append_text(part), soft_wrap=True)
        return
    console.print(line, soft_wrap=True)

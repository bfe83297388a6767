"""The commands that a finished run makes possible: shown by console, page and model card."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from chainft import registry
from chainft.tasks.base import About


@dataclass(frozen=True)
class Command:
    """A command line and what it is good for."""

    line: str
    purpose: str


def next_commands(run: Path | str, task: str, *, tested: bool) -> list[Command]:
    """What to type after a run, most useful first; `tested`: it has test data to score again."""
    folder = shlex.quote(str(run))
    again = Command(f"chainft evaluate {folder}", "score the model again, also on other data")
    test = "data.tasks.NAME.test" if task == "joint" else "data.test"
    other = Command(f"chainft evaluate {folder} {test}=FILE", "score the model on other data")
    sample = about(task).sample
    file, unit = ("inputs.jsonl", "JSON object") if sample.startswith("{") else ("texts.txt", "text")
    return [
        Command(f"chainft predict {folder} {shlex.quote(sample)}", "try the model on your own words"),
        Command(
            f"chainft predict {folder} --file {file} --output answers.jsonl", f"predict a file, one {unit} a line"
        ),
        again if tested else other,
    ]


def about(task: str) -> About:
    """The words of a task; empty ones where its package is not installed."""
    known = {plugin.name: plugin for plugin in registry.plugins("task")}
    found: About = known[task].load().about if task in known else About()
    return found

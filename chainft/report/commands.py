"""The commands that a finished run makes possible: shown by console, page and model card."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

_SAMPLES: dict[str, str] = {
    "ner": "Angela Merkel met engineers from Siemens in Berlin.",
    "classify": "My card still has not arrived.",
    "generate": "can u send the report",
    "translate": "Two children are feeding the ducks.",
    "summarize": "The bridge was closed on Monday after a crack was found. Experts need three days to look at it.",
    "joint": "I ordered a lamp from Siemens in Berlin and it has not arrived.",
}


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
    return [
        Command(f"chainft predict {folder} {shlex.quote(sample_text(task))}", "try the model on your own words"),
        Command(
            f"chainft predict {folder} --file texts.txt --output answers.jsonl", "predict a file, one text a line"
        ),
        again if tested else other,
    ]


def sample_text(task: str) -> str:
    """A text to try a task on."""
    return _SAMPLES.get(task, "Your text here.")

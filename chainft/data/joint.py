"""The examples of several tasks as one set: each task reads its own data, then all stand one after the other.

An example holds the values of the tasks that it is for, by their names: `{"entities": {"tokens": ..., "tags": ...}}`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from chainft.config.joint import JointDataConfig
from chainft.config.run import DataConfig
from chainft.data.example import SPLITS, Example, Split
from chainft.errors import ChainftError, ConfigError, Problem, did_you_mean

if TYPE_CHECKING:
    from chainft.data.load import Splits
    from chainft.tasks.base import Task


def load_joint(config: DataConfig, task: Task, *, trains: bool) -> Splits:
    """Read the data of each task. Raises what `load_splits` raises, with the task's name in the keys."""
    from chainft.data.load import Splits, load_splits

    data = check_parts(config, task)
    examples: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    digest = hashlib.sha256()
    rejected: list[Problem] = []
    for name, one in task.tasks.items():
        with named(name):
            splits = load_splits(data[name], one, trains=trains)
        digest.update(f"{name} {splits.fingerprint}\n".encode())
        rejected += [replace(problem, message=f"{name}: {problem.message}") for problem in splits.rejected]
        for split, rows in splits.examples.items():
            examples[split] += [replace(row, values={name: row.values}) for row in rows]
    found = {split: rows for split, rows in examples.items() if rows}
    return Splits(found, digest.hexdigest(), tuple(rejected))


def check_parts(config: DataConfig, task: Task) -> Mapping[str, DataConfig]:
    """The data of each task, by its name. Raises ConfigError unless exactly the tasks have data."""
    if not isinstance(config, JointDataConfig) or task.has_own_data:
        raise ConfigError(
            f"task {task.config.name!r} cannot read the data source {config.name!r}: task=joint and data=joint are "
            "for each other",
            slug="contradiction",
            key="data.name",
            help="choose both or neither",
        )
    problems = [
        Problem("no-data", f"task {name!r} has no data", key=f"data.tasks.{name}", help=_near(name, config.tasks))
        for name in task.tasks
        if name not in config.tasks
    ]
    problems += [
        Problem("unknown-task", f"no task is named {name!r}", key=f"data.tasks.{name}", help=_near(name, task.tasks))
        for name in config.tasks
        if name not in task.tasks
    ]
    if problems:
        raise ConfigError.of(problems)
    return config.tasks


def _near(name: str, known: Iterable[str]) -> str:
    listed = list(known)
    return did_you_mean(name, listed) or f"there are: {', '.join(listed) or 'none'}"


@contextmanager
def named(name: str) -> Iterator[None]:
    """Let errors about a task's own settings say where these stand: `data.train` is `data.tasks.NAME.train`."""
    try:
        yield
    except ChainftError as error:
        error.problems = tuple(_placed(problem, name) for problem in error.problems)
        raise


_OWN_KEY = re.compile(r"(?<![\w.])(task|data)\.(?!(tasks|unseen_labels|cache_dir)\b)")
"""A setting of one task or its data; what follows in the group is for all tasks together."""


def _placed(problem: Problem, name: str) -> Problem:
    def placed(text: str | None) -> str | None:
        return text and _OWN_KEY.sub(rf"\1.tasks.{name}.", text)

    key = f"{problem.key}.tasks.{name}" if problem.key in ("task", "data") else placed(problem.key)
    return replace(problem, message=placed(problem.message) or "", key=key, help=placed(problem.help))


def of_task(examples: Mapping[Split, Sequence[Example]], name: str) -> dict[Split, list[Example]]:
    """The examples of one task, as that task knows them; splits without any are absent."""
    found: dict[Split, list[Example]] = {}
    for split, rows in examples.items():
        mine = [inner(row, name) for row in rows if name in row.values]
        if mine:
            found[split] = mine
    return found


def inner(example: Example, name: str) -> Example:
    """An example as the task `name` knows it."""
    return replace(example, values=example.values[name])

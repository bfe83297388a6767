"""From data settings to the examples of each split: read, map columns, check each row, cut, limit.

Nothing here depends on the order of a dict or set, the hash seed or file times: the same files and settings
give the same splits everywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from chainft.config.run import DataConfig
from chainft.data.columns import ColumnMap
from chainft.data.example import SPLITS, Example, Split
from chainft.errors import ConfigError, DataError, Problem
from chainft.registry import find

if TYPE_CHECKING:
    from chainft.data.sources.base import Source
    from chainft.tasks.base import Task

MAX_PROBLEMS = 20
"""How many malformed rows one error lists; it counts the rest."""


@dataclass(frozen=True)
class Splits:
    """The examples of a run."""

    examples: Mapping[Split, Sequence[Example]]
    """Values are under the names of the task's fields; a split without examples is absent."""
    fingerprint: str
    """SHA-256 of the content of all splits in order: file names and times do not enter."""
    rejected: tuple[Problem, ...] = ()
    """Malformed rows that `on_error: skip` left out."""


def load_splits(config: DataConfig, task: Task) -> Splits:
    """Read what `config` names. Raises ConfigError for settings, DataError for rows, with all their places."""
    source: Source = find("source", config.name, key="data.name")(config)
    if config.train is None:
        raise ConfigError(
            "no training data is given",
            slug="no-data",
            key="data.train",
            help="name a file by data.train=FILE, or leave data out to use the starter data",
        )
    reader = _Reader(config, source, task)
    splits: dict[Split, list[Example]] = {}
    for split in SPLITS:
        files = getattr(config, split)
        if files is not None:
            splits[split] = reader.read((files,) if isinstance(files, str) else files, split)
    reader.stop_on_problems()
    splits = _limited(_with_cuts(splits, config, task), config)
    if not splits["train"]:
        raise DataError("no training examples are left", slug="no-examples", key="data.train")
    return Splits(
        {split: splits[split] for split in SPLITS if splits.get(split)},
        fingerprint(splits),
        tuple(reader.problems),
    )


def fingerprint(splits: Mapping[Split, Sequence[Example]]) -> str:
    """SHA-256 of the values of all examples, in order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        digest.update(f"{split}\n".encode())
        for example in splits.get(split, ()):
            digest.update(content_of(example))
    return digest.hexdigest()


def content_of(example: Example) -> bytes:
    """The values of an example as canonical JSON, a line."""
    text = json.dumps(dict(example.values), ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return text.encode("ascii") + b"\n"


class _Reader:
    """Reads files of one source and collects what is malformed."""

    def __init__(self, config: DataConfig, source: Source, task: Task) -> None:
        self.config = config
        self.source = source
        self.task = task
        self.problems: list[Problem] = []
        self.num_rows = 0

    def read(self, files: Sequence[str], split: Split) -> list[Example]:
        """The well-formed examples of all files of a split."""
        return list(chain.from_iterable(self._file(file, split) for file in files))

    def _file(self, file: str, split: Split) -> Iterator[Example]:
        columns: ColumnMap | None = None
        found = False
        for row in self.source.read(file):
            found = True
            self.num_rows += 1
            if isinstance(row, Problem):
                self._add(row)
                continue
            if columns is None:
                columns = ColumnMap.of(self.task, self.config, tuple(row.values), where=file)
            mapped = columns.apply(row)
            if isinstance(mapped, Problem):
                self._add(mapped)
                continue
            wrong = list(self.task.validate(mapped))
            for problem in wrong:
                self._add(problem)
            if not wrong:
                yield mapped
        if not found:
            raise DataError(f"{file!r} has no examples", slug="empty-file", where=file, key=f"data.{split}")

    def _add(self, problem: Problem) -> None:
        self.problems.append(problem)

    def stop_on_problems(self) -> None:
        """Raise DataError for malformed rows, or for too many of them where they are skipped."""
        if not self.problems:
            return
        share = len(self.problems) / self.num_rows
        if self.config.on_error == "skip" and share <= self.config.max_bad_fraction:
            return
        listed = self.problems[:MAX_PROBLEMS]
        rest = len(self.problems) - len(listed)
        if self.config.on_error == "skip":
            limit = self.config.max_bad_fraction
            listed.append(
                Problem(
                    "too-many-bad-rows",
                    f"{len(self.problems)} of {self.num_rows} rows are malformed, more than the share {limit:g} allowed",
                    key="data.max_bad_fraction",
                )
            )
        elif rest:
            listed.append(
                Problem(
                    "more-bad-rows",
                    f"{rest} more rows are malformed",
                    key="data.on_error",
                    help="mend the file, or leave malformed rows out by data.on_error=skip",
                )
            )
        raise DataError.of(listed)


def _with_cuts(splits: dict[Split, list[Example]], config: DataConfig, task: Task) -> dict[Split, list[Example]]:
    """Cut validation and test from train where no files bring them; shares are of the whole train."""
    result = dict(splits)
    whole = len(splits["train"])
    shares: tuple[tuple[Split, float], ...] = (
        ("test", config.test_fraction),
        ("validation", config.validation_fraction),
    )
    for split, share in shares:
        if split not in result and share > 0:
            seed = [config.split_seed, SPLITS.index(split)]
            train = result["train"]
            count = min(round(share * whole), len(train) - 1)
            chosen = _choose(train, count, seed=seed, task=task if config.stratified else None)
            result[split] = [example for index, example in enumerate(train) if index in chosen]
            result["train"] = [example for index, example in enumerate(train) if index not in chosen]
    return result


def _choose(examples: Sequence[Example], count: int, *, seed: list[int], task: Task | None) -> set[int]:
    """`count` positions, with every class in its share (largest remainders); a class of one example stays."""
    random = np.random.default_rng(seed)
    strata: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        strata[(task.stratum(example) if task else None) or ""].append(index)
    groups = [strata[name] for name in sorted(strata)]
    chosen: set[int] = set()
    for group, number in zip(groups, _shares([len(group) for group in groups], count), strict=True):
        chosen.update(group[position] for position in random.permutation(len(group))[:number])
    return chosen


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """How many to take of each class so that together they are `count` where the classes allow it."""
    total = sum(sizes)
    exact = [size * count / total for size in sizes]
    most = [size - 1 if len(sizes) > 1 else size for size in sizes]
    taken = [min(int(share), limit) for share, limit in zip(exact, most, strict=True)]
    order = sorted(range(len(sizes)), key=lambda index: (taken[index] - exact[index], index))
    while sum(taken) < count and any(taken[index] < most[index] for index in order):
        for index in order:
            if sum(taken) < count and taken[index] < most[index]:
                taken[index] += 1
    return taken


def _limited(splits: dict[Split, list[Example]], config: DataConfig) -> dict[Split, list[Example]]:
    """At most `max_<split>_samples` of each split, drawn with `split_seed`, in their order."""
    result: dict[Split, list[Example]] = {}
    for split, examples in splits.items():
        most: Any = getattr(config, f"max_{split}_samples")
        if most is None or most >= len(examples):
            result[split] = examples
            continue
        random = np.random.default_rng([config.split_seed, 10 + SPLITS.index(split)])
        kept = np.sort(random.permutation(len(examples))[:most])
        result[split] = [examples[index] for index in kept]
    return result

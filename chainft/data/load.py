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
from typing import TYPE_CHECKING, Any

import numpy as np

from chainft.config.joint import JointDataConfig
from chainft.config.run import DataConfig
from chainft.data.columns import ColumnMap, check_columns, check_settings
from chainft.data.example import SPLITS, Example, Split
from chainft.data.joint import load_joint
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


def load_splits(config: DataConfig, task: Task, *, trains: bool = True) -> Splits:
    """Read what `config` names. Raises ConfigError for settings, DataError for files and rows, with all their places.

    `trains=False`: training data need not be there, as for evaluation.
    """
    if isinstance(config, JointDataConfig) or not task.has_own_data:
        return load_joint(config, task, trains=trains)
    source: Source = find("source", config.name, key="data.name")(config)
    check_settings(task, config)
    check_given(config, trains=trains)
    reader = _Reader(config, source, task)
    splits: dict[Split, list[Example]] = {}
    for split in SPLITS:
        files = getattr(config, split)
        if files is not None:
            splits[split] = reader.read((files,) if isinstance(files, str) else files, split)
    reader.stop_on_problems()
    if config.train is not None:
        splits = _with_cuts(splits, config, task)
    splits = {split: list(task.grouped(split, examples)) for split, examples in splits.items()}
    splits = _limited(splits, config, task)
    if config.train is not None and not splits["train"]:
        raise DataError("no training examples are left", slug="no-examples", key="data.train")
    return Splits(
        {split: splits[split] for split in SPLITS if splits.get(split)},
        fingerprint(splits),
        tuple(reader.problems),
    )


def check_given(config: DataConfig, *, trains: bool) -> None:
    """Raise ConfigError where no data is named, or none for training though it `trains`."""
    if config.train is None and (trains or not (config.validation or config.test)):
        raise ConfigError(
            "no training data is given",
            slug="no-data",
            key="data.train",
            help="name a file by data.train=FILE, or leave data out to use the starter data",
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
        self.unreadable: list[Problem] = []
        """Files that cannot be read at all."""
        self.problems: list[Problem] = []
        self.num_rows = 0
        self.num_bad = 0

    def read(self, files: Sequence[str], split: Split) -> list[Example]:
        """The well-formed examples of all files of a split; a file that cannot be read is remembered."""
        examples: list[Example] = []
        refused: list[tuple[Example, list[Problem]]] = []
        for file in files:
            try:
                examples.extend(self._file(file, split, refused))
            except DataError as error:
                self.unreadable.extend(error.problems)
        cause = self.task.common_cause(split, examples, [example for example, _ in refused]) if refused else None
        if cause is not None:
            explained = {id(one) for _, wrong in refused for one in wrong}
            self.problems = [cause, *(one for one in self.problems if id(one) not in explained)]
        return list(self.task.arranged(examples))

    def _file(self, file: str, split: Split, refused: list[tuple[Example, list[Problem]]]) -> Iterator[Example]:
        forms: dict[tuple[str, ...], ColumnMap] = {}
        first: Example | None = None
        start = self.num_rows
        for row in self.source.read(file):
            self.num_rows += 1
            if isinstance(row, Problem):
                self._reject([row])
                continue
            form = tuple(row.values)
            if form not in forms:
                forms[form] = ColumnMap.of(self.task, self.config, row)
            if first is None:
                first = row
                check_columns([field for field in forms[form].absent if field.required], self.config, row)
            mapped = forms[form].apply(row)
            wrong = [mapped] if isinstance(mapped, Problem) else list(self.task.validate(mapped))
            if isinstance(mapped, Problem):
                self._reject(wrong)
            elif wrong:
                self._reject(wrong)
                refused.append((mapped, wrong))
            else:
                yield mapped
        if self.num_rows == start:
            raise DataError(f"{file!r} has no examples", slug="empty-file", where=file, key=f"data.{split}")
        if first is not None:
            everywhere = set.intersection(*(set(columns.absent) for columns in forms.values()))
            check_columns([field for field in self.task.fields if field in everywhere], self.config, first)

    def _reject(self, wrong: Sequence[Problem]) -> None:
        """Count one row as bad and remember why."""
        self.num_bad += 1
        self.problems.extend(wrong)

    def stop_on_problems(self) -> None:
        """Raise DataError for unreadable files, and for malformed rows, or too many of them where they are skipped."""
        share = self.num_bad / max(1, self.num_rows)
        skip = self.config.on_error == "skip"
        if not self.unreadable and (not self.problems or (skip and share <= self.config.max_bad_fraction)):
            return
        listed = self.problems[:MAX_PROBLEMS]
        rest = len(self.problems) - len(listed)
        if skip and share > self.config.max_bad_fraction:
            limit = self.config.max_bad_fraction
            message = f"{self.num_bad} of {self.num_rows} rows are malformed, more than the share {limit:g} allowed"
            listed.append(Problem("too-many-bad-rows", message, key="data.max_bad_fraction"))
        elif rest:
            help = None if skip else "mend the file, or leave malformed rows out by data.on_error=skip"
            listed.append(Problem("more-bad-rows", f"{rest} more rows are malformed", key="data.on_error", help=help))
        raise DataError.of([*self.unreadable, *listed])


def _with_cuts(splits: dict[Split, list[Example]], config: DataConfig, task: Task) -> dict[Split, list[Example]]:
    """Cut validation and test from train where no files bring them; shares are of the whole train.

    A cut takes at least one example where it can, and leaves at least one of every class in train.
    """
    result = dict(splits)
    whole = len(splits["train"])
    shares: tuple[tuple[Split, float], ...] = (
        ("test", config.test_fraction),
        ("validation", config.validation_fraction),
    )
    for split, share in shares:
        if split not in result and share > 0:
            train = result["train"]
            count = min(max(1, round(share * whole)), len(train) - 1)
            seed = [config.split_seed, SPLITS.index(split)]
            classes = _classes(train, config, task)
            most = [len(members) - 1 if len(classes) > 1 else len(members) for members in classes]
            chosen = _draw(classes, _shares([len(members) for members in classes], count, most), seed=seed)
            result[split] = [example for index, example in enumerate(train) if index in chosen]
            result["train"] = [example for index, example in enumerate(train) if index not in chosen]
    return result


def _classes(examples: Sequence[Example], config: DataConfig, task: Task) -> list[list[int]]:
    """The positions of the examples of each class, classes by name; one class where there is none to tell."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        members[(task.stratum(example) if config.stratified else None) or ""].append(index)
    return [members[name] for name in sorted(members)]


def _draw(classes: Sequence[Sequence[int]], numbers: Sequence[int], *, seed: list[int]) -> set[int]:
    """So many positions of each class, at random."""
    random = np.random.default_rng(seed)
    chosen: set[int] = set()
    for members, number in zip(classes, numbers, strict=True):
        chosen.update(members[position] for position in random.permutation(len(members))[:number])
    return chosen


def _shares(sizes: Sequence[int], count: int, most: Sequence[int]) -> list[int]:
    """How many to take of each class: its share of `count`, at most `most`, together `count` where that allows it.

    Shares are rounded by the method of largest remainders.
    """
    total = sum(sizes)
    exact = [size * count / total for size in sizes]
    taken = [min(int(share), limit) for share, limit in zip(exact, most, strict=True)]
    order = sorted(range(len(sizes)), key=lambda index: (taken[index] - exact[index], index))
    while sum(taken) < count and any(taken[index] < most[index] for index in order):
        for index in order:
            if sum(taken) < count and taken[index] < most[index]:
                taken[index] += 1
    return taken


def _limited(splits: dict[Split, list[Example]], config: DataConfig, task: Task) -> dict[Split, list[Example]]:
    """At most `max_<split>_samples` of each split, drawn with `split_seed` in the share of each class, in their order."""
    result: dict[Split, list[Example]] = {}
    for split, examples in splits.items():
        most: Any = getattr(config, f"max_{split}_samples")
        if most is None or most >= len(examples):
            result[split] = examples
            continue
        classes = _classes(examples, config, task)
        sizes = [len(members) for members in classes]
        seed = [config.split_seed, 10 + SPLITS.index(split)]
        result[split] = [examples[index] for index in sorted(_draw(classes, _kept(sizes, most), seed=seed))]
    return result


def _kept(sizes: Sequence[int], count: int) -> list[int]:
    """How many examples of each class to keep: one of each if there is room, the rest by their shares."""
    if count < len(sizes):
        return _shares(sizes, count, sizes)
    more = [size - 1 for size in sizes]
    rest = count - len(sizes)
    return [1 + number for number in _shares(more, rest, more)] if rest and sum(more) else [1] * len(sizes)

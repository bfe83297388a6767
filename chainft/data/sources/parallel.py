"""Parallel texts: two plain-text files, one sentence a line, whose lines belong together. `.gz` is unpacked.

`data.train` names the sources, `data.train_target` their translations, and so on for the other splits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

from chainft.config.run import DataConfig, Files
from chainft.data.example import SPLITS, Example, Origin
from chainft.data.files import Line, find_file, read_lines
from chainft.data.sources.base import Source
from chainft.errors import ConfigError, DataError, Problem

COLUMNS = ("source", "target")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(DataConfig):
    """Aligned lines of two files."""

    train_target: Files = None
    """File or files with the other side of `train`, line by line, in the same order."""
    validation_target: Files = None
    """The same of `validation`."""
    test_target: Files = None
    """The same of `test`."""

    def __post_init__(self) -> None:
        for split in SPLITS:
            sources, targets = _listed(getattr(self, split)), _listed(getattr(self, f"{split}_target"))
            if len(sources) != len(targets):
                key = f"data.{split}_target" if len(targets) < len(sources) else f"data.{split}"
                raise ConfigError(
                    f"data.{split} names {len(sources)} files, data.{split}_target {len(targets)}: each needs its other side",
                    slug="one-sided",
                    key=key,
                    help=f"give as many: data.{split}=a.en data.{split}_target=a.de",
                )
        pairs = self.pairs()
        if twice := next((source for source, targets in pairs.items() if len(targets) > 1), None):
            raise ConfigError(
                f"{twice!r} is paired with {' and '.join(sorted(pairs[twice]))}",
                slug="contradiction",
                key=next(f"data.{split}" for split in SPLITS if twice in _listed(getattr(self, split))),
                help="give each pair files of its own",
            )

    def pairs(self) -> dict[str, set[str]]:
        """File of sources -> the files that it is paired with."""
        found: dict[str, set[str]] = {}
        for split in SPLITS:
            sides = (_listed(getattr(self, split)), _listed(getattr(self, f"{split}_target")))
            for source, target in zip(*sides, strict=True):
                found.setdefault(source, set()).add(target)
        return found


class ParallelSource(Source):
    """Reads pairs of lines; where both are blank there is no example."""

    config_class = ParallelConfig
    reads_files: ClassVar[bool] = True
    config: ParallelConfig

    def __init__(self, config: ParallelConfig) -> None:
        super().__init__(config)
        self._targets = {source: next(iter(targets)) for source, targets in config.pairs().items()}

    def read(self, file: str) -> Iterator[Example | Problem]:
        """Raises DataError at the line after which one file ends and the other goes on."""
        other, key = self._targets[file], self.key_of(file)
        find_file(other, key=None if key is None else f"{key}_target")
        sides = (read_lines(one, encoding=self.config.encoding, key=key) for one in (file, other))
        for count, (source, target) in enumerate(zip_longest(*sides)):
            if source is None or target is None:
                raise _uneven(file, other, count, key, source_ends=source is None)
            yield from self._row(file, other, source, target)

    def column_names(self, file: str) -> tuple[str, ...]:
        return self._first_row_names(file)

    def _row(self, file: str, other: str, source: Line, target: Line) -> Iterator[Example | Problem]:
        for line in (source, target):
            if line.problem is not None:
                yield line.problem
                return
        blank = [not line.text.strip() for line in (source, target)]
        if all(blank):
            return
        if any(blank):
            empty, there = (file, other) if blank[0] else (other, file)
            message = f"the line is blank, but line {source.number} of {there!r} is not"
            help = "blank both lines, or mend the alignment"
            yield Problem("one-sided", message, f"{empty}:{source.number}", help=help)
            return
        values = dict(zip(COLUMNS, (source.text.strip(), target.text.strip()), strict=True))
        yield Example(values, Origin(file, source.number))


def _listed(files: Files) -> tuple[str, ...]:
    return () if files is None else (files,) if isinstance(files, str) else tuple(files)


def _uneven(file: str, other: str, count: int, key: str | None, *, source_ends: bool) -> DataError:
    shorter, longer = (file, other) if source_ends else (other, file)
    return DataError(
        f"{shorter!r} ends after line {count}, {longer!r} goes on: the lines of the two do not belong together",
        slug="unequal-lines",
        where=f"{longer}:{count + 1}",
        key=key,
        help="files of parallel texts need equally many lines; mind line ends inside of sentences",
    )


PLUGIN = ParallelSource

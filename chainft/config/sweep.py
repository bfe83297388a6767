"""What `chainft train -m` sweeps over: Hydra's sweep syntax to axes, and axes to the words of each job.

    optimizer.lr=1e-4,3e-4  seed=range(1,4)  optimizer=choice(adamw,lion)  optimizer.lr=interval(1e-5,1e-3)

Intervals have no end of values, so that only `sweep=optuna` takes them; `tag(log, interval(...))` draws on a
log scale, as Hydra's optuna plug-in writes it. What must fit together is in `sweep_rules`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hydra.core.override_parser.types import IntervalSweep, Override

from chainft.config.compose import Composed, Draft, compose_draft, finish
from chainft.config.hydra_edge import Composer, composer
from chainft.config.parse import parse
from chainft.config.run import RunConfig
from chainft.config.search import PRIMARY, search_folders
from chainft.config.sweep_base import Base, base_of
from chainft.config.sweep_config import SweepConfig
from chainft.config.sweep_rules import job_rules, sweep_rules
from chainft.errors import ConfigError, Problem

_WHOLE_ENDS = re.compile(r"interval\(\s*(start=)?[+-]?\d+\s*,\s*(end=)?[+-]?\d+\s*\)")
"""Hydra reads both ends as floats; only the word tells."""


@dataclass(frozen=True)
class Axis:
    """A key that varies: over values, or anywhere between two."""

    key: str
    values: tuple[str, ...] = ()
    """As words: `1e-4`, `adamw`, `[a,b]`."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    """Only whole numbers: both ends were written as such."""

    @property
    def is_interval(self) -> bool:
        return not self.values

    def samples(self) -> tuple[str, ...]:
        """Values that stand for all in the check before the sweep: all, or both ends."""
        ends = (int(self.low), int(self.high)) if self.whole else (self.low, self.high)
        return self.values or tuple(str(end) for end in ends)


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep."""

    config: SweepConfig
    words: tuple[str, ...]
    """What all jobs have in common."""
    axes: tuple[Axis, ...]
    base: Base
    """The settings that all jobs share."""
    first: RunConfig
    """One of the jobs."""

    def combinations(self) -> Iterator[dict[str, str]]:
        """Every combination of the values, the last axis fastest."""
        yield from _combinations(self.axes)

    def job_words(self, varied: dict[str, str]) -> tuple[str, ...]:
        """The words of the job that has these values."""
        return _job_words(self.words, varied)


def plan_sweep(words: Sequence[str], *, config_dir: Path | None = None, config_name: str = PRIMARY) -> SweepPlan:
    """Read and check a sweep: every job is composed. Raises ConfigError with every violation of every job."""
    with composer(search_folders(config_dir), config_name) as hydra:
        parsed = hydra.parse(words)
        axes = tuple(_axis(hydra, override) for override in parsed if override.is_sweep_override())
    common = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
    draft = compose_draft(
        [*common, *(f"{axis.key}={axis.samples()[0]}" for axis in axes)],
        config_dir=config_dir,
        config_name=config_name,
    )
    config = parse(SweepConfig, draft.sweep, at="sweep")
    own = tuple(word for word in common if not _is_sweep_setting(word))
    jobs, found = _jobs(own, axes, config, partial(compose_draft, config_dir=config_dir, config_name=config_name))
    configs = [composed.config for _, composed in jobs]
    if problems := [*sweep_rules(config, axes, own), *found, *job_rules(config, configs)]:
        raise ConfigError.of(dict.fromkeys(problems))
    return SweepPlan(config, own, axes, base_of([draft.data for draft, _ in jobs]), configs[0])


def _axis(hydra: Composer, override: Override) -> Axis:
    override.config_loader = hydra.loader
    key, value = override.get_key_element().lstrip("+"), override.value()
    if key.split(".")[0] in ("sweep", "run", "runs_dir", "hydra", "resume"):
        raise ConfigError(
            f"{override.input_line}: {key} is one for the whole sweep", slug="bad-sweep", where=override.input_line,
            key=key,
        )  # fmt: skip
    if isinstance(value, IntervalSweep):
        if value.start is None or value.end is None or not value.start < value.end:
            raise ConfigError(
                f"{override.input_line}: an interval goes from a low to a high number",
                slug="bad-sweep",
                where=override.input_line,
                key=key,
            )
        whole = _WHOLE_ENDS.search(override.input_line or "") is not None
        return Axis(key, low=value.start, high=value.end, log="log" in value.tags, whole=whole)
    values = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not values:
        raise ConfigError(
            f"{override.input_line} gives no value", slug="bad-sweep", where=override.input_line, key=key
        )
    return Axis(key, values)


def _combinations(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    for values in itertools.product(*(axis.values for axis in axes)):
        yield {axis.key: value for axis, value in zip(axes, values, strict=True)}


def _job_words(words: Sequence[str], varied: dict[str, str]) -> tuple[str, ...]:
    return (*words, *(f"{key}={value}" for key, value in varied.items()))


def _jobs(
    words: Sequence[str], axes: Sequence[Axis], config: SweepConfig, draft: Callable[[Sequence[str]], Draft]
) -> tuple[list[tuple[Draft, Composed]], list[Problem]]:
    """The jobs, and what is wrong with any; of a search, each value of each axis beside the first of the others."""
    if config.name == "grid" and not any(axis.is_interval for axis in axes):
        every = list(_combinations(axes))
    else:
        first = {axis.key: axis.samples()[0] for axis in axes}
        every = [first | {axis.key: value} for axis in axes for value in axis.samples()]
    jobs: list[tuple[Draft, Composed]] = []
    problems: list[Problem] = []
    for varied in every:
        try:
            made = draft(_job_words(words, varied))
            jobs.append((made, finish(made)))
        except ConfigError as error:
            problems += error.problems
    return jobs, problems


def _is_sweep_setting(word: str) -> bool:
    return word.lstrip("+~").partition("=")[0].split(".")[0] == "sweep"

"""What `chainft train -m` sweeps over: Hydra's sweep syntax to axes, and axes to the words of each job.

    optimizer.lr=1e-4,3e-4  seed=range(1,4)  optimizer=choice(adamw,lion)  optimizer.lr=interval(1e-5,1e-3)

Intervals have no end of values, so that only `sweep=tpe` takes them; `tag(log, interval(...))` draws on a
log scale, as Hydra's optuna plug-in writes it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.types import IntervalSweep, Override

from chainft.config.compose import compose_draft, finish
from chainft.config.hydra_edge import Composer, composer
from chainft.config.parse import parse
from chainft.config.search import PRIMARY, search_folders
from chainft.config.sweep_config import SweepConfig
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

    def combinations(self) -> Iterator[dict[str, str]]:
        """Every combination of the values, the last axis fastest."""
        for values in itertools.product(*(axis.values for axis in self.axes)):
            yield {axis.key: value for axis, value in zip(self.axes, values, strict=True)}

    def job_words(self, varied: dict[str, str]) -> tuple[str, ...]:
        """The words of the job that has these values."""
        return (*self.words, *(f"{key}={value}" for key, value in varied.items()))


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
    plan = SweepPlan(config, own, axes)
    if problems := [*_rules(plan), *_jobs(plan, config_dir, config_name)]:
        raise ConfigError.of(dict.fromkeys(problems))
    return plan


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


def _rules(plan: SweepPlan) -> Iterator[Problem]:
    if not plan.axes:
        yield Problem(
            "bad-sweep",
            "nothing varies",
            help="give several values with commas, for example seed=1,2; or leave -m out",
        )
    keys = [axis.key for axis in plan.axes]
    for key in sorted({key for key in keys if keys.count(key) > 1}):
        yield Problem("bad-sweep", f"{key} varies twice", key=key)
    for word in plan.words:
        if word.lstrip("+").startswith(("run=", "resume=")):
            yield Problem(
                "no-effect",
                f"{word} names one run; a sweep has many",
                where=word,
                help="set sweep.dir or sweep.resume",
            )
        if word.lstrip("+").startswith("runs_dir="):
            yield Problem(
                "no-effect",
                f"{word} is for single runs; a sweep keeps its runs in a folder of its own",
                where=word,
                key="runs_dir",
                help="name that folder by sweep.dir=FOLDER",
            )
    if plan.config.resume and plan.config.dir is None:
        yield Problem(
            "contradiction", "sweep.resume = true, but no sweep is named", key="sweep.dir", help="add sweep.dir=FOLDER"
        )
    if plan.config.name == "grid":
        yield from _grid_rules(plan)


def _grid_rules(plan: SweepPlan) -> Iterator[Problem]:
    for axis in plan.axes:
        if axis.is_interval:
            yield Problem(
                "bad-sweep",
                f"{axis.key}=interval({axis.low:g},{axis.high:g}) has no list of values for sweep=grid",
                key=axis.key,
                help="list the values with commas, or choose sweep=tpe",
            )
    for name in ("num_trials", "metric", "direction", "seed"):
        value = getattr(plan.config, name)
        if value is not None:
            yield Problem("no-effect", f"sweep.{name} = {value!r} has no effect: sweep=grid runs every combination",
                          key=f"sweep.{name}", help="choose sweep=tpe")  # fmt: skip


def _jobs(plan: SweepPlan, config_dir: Path | None, config_name: str) -> Iterator[Problem]:
    """What is wrong with any job; with intervals or tpe, with each value of each axis beside the first of the others."""
    if plan.config.name == "grid" and not any(axis.is_interval for axis in plan.axes):
        every = list(plan.combinations())
    else:
        first = {axis.key: axis.samples()[0] for axis in plan.axes}
        every = [first | {axis.key: value} for axis in plan.axes for value in axis.samples()]
    for varied in every:
        try:
            finish(compose_draft(plan.job_words(varied), config_dir=config_dir, config_name=config_name))
        except ConfigError as error:
            yield from error.problems


def _is_sweep_setting(word: str) -> bool:
    return word.lstrip("+~").partition("=")[0].split(".")[0] == "sweep"

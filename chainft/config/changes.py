"""What may differ between a run and the settings with which it is resumed or evaluated.

Free: what changes no number. Refused: what makes another model or task. Everything else changes the numbers from
here on, and needs its key in `allow_change`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chainft.config.anchor import anchored
from chainft.config.joint import JointConfig
from chainft.config.parse import dump
from chainft.config.run import RunConfig
from chainft.errors import ConfigError, Problem

FREE = (
    "run",
    "runs_dir",
    "resume",
    "allow_change",
    "allow_data_change",
    "checkpoint",
    "cache.max_gib",
    "data.cache_dir",
    "evaluation.baselines",
    "evaluation.batch_size",
    "evaluation.patience",
    "launch",
    "report",
    "tracker",
    "train.logging_steps",
    "train.max_nonfinite_steps",
)
REFUSED = ("task", "model", "head", "chain", "seed", "train.batch_size", "optimizer.name", "optimizer.options")
EVALUATED = ("data", "task", "evaluation.batch_size", "train.device")
"""What `chainft evaluate` reads; every other setting would be ignored."""
_NOT_EVALUATED = re.compile(r"task\.(tasks\.\w+\.)?name")
"""Settings among these that are for training alone: another kind of task,"""
_SAMPLING = ("task.sampling", "task.temperature")
"""and of several tasks which are drawn how often."""


@dataclass(frozen=True)
class Change:
    """A setting that differs."""

    key: str
    old: Any
    new: Any
    kind: Literal["free", "needs allow_change", "refused"]


def changes(old: RunConfig, new: RunConfig) -> list[Change]:
    """Every setting that differs, by dotted key."""
    before, after = dict(leaves(anchored(dump(old)))), dict(leaves(anchored(dump(new))))
    keys = sorted(before.keys() | after.keys())
    return [
        Change(key, before.get(key), after.get(key), _kind(key))
        for key in keys
        if before.get(key) != after.get(key) and key != "resume"
    ]


def check_changes(old: RunConfig, new: RunConfig) -> None:
    """Raise ConfigError that lists every change which this resumed run may not make."""
    found = changes(old, new)
    needed = [change.key for change in found if change.kind == "needs allow_change"]
    problems = [
        Problem(
            "changed-on-resume",
            f"{change.key} was {change.old!r} and is now {change.new!r}",
            key=change.key,
            help=_remedy(change, needed),
        )
        for change in found
        if change.kind == "refused" or (change.kind == "needs allow_change" and change.key not in new.allow_change)
    ]
    if problems:
        raise ConfigError.of(problems)


def check_evaluated(old: RunConfig, new: RunConfig) -> None:
    """Raise ConfigError that lists every change which evaluating a finished run would not notice."""
    problems = [
        Problem(
            "no-effect",
            f"{change.key} = {change.new!r} has no effect on a model that is trained already",
            key=change.key,
            help=f"'chainft evaluate' reads {', '.join(EVALUATED)}; to train with it, start a new run",
        )
        for change in changes(old, new)
        if not _under(change.key, EVALUATED)
        or _NOT_EVALUATED.fullmatch(change.key)
        or (isinstance(new.task, JointConfig) and change.key in _SAMPLING)
    ]
    if problems:
        raise ConfigError.of(problems)


def _remedy(change: Change, needed: Sequence[str]) -> str:
    """What to do about a change; `needed`: every key that has to be accepted, so that one more try is enough."""
    if change.kind == "refused":
        return "this makes another training: start a new run, without resume"
    return f"it changes the numbers from here on; accept it by 'allow_change=[{','.join(needed)}]'"


def is_free(key: str) -> bool:
    """Whether a setting changes no number."""
    return _under(key, FREE)


def _kind(key: str) -> Literal["free", "needs allow_change", "refused"]:
    if is_free(key):
        return "free"
    return "refused" if _under(key, REFUSED) else "needs allow_change"


def _under(key: str, roots: tuple[str, ...]) -> bool:
    return any(key == root or key.startswith(f"{root}.") for root in roots)


def leaves(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of nested ones, by its dotted key."""
    for key, value in tree.items():
        path = f"{at}.{key}" if at else key
        if isinstance(value, Mapping):
            yield from leaves(value, path)
        else:
            yield path, value

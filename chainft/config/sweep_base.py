"""What the jobs of a sweep have in common, and whether it is still the same when the sweep is resumed.

Cells of one table are comparable only if nothing but what varies differs between them. So `sweep.json` keeps the
common settings, interpolations as written (a secret of the environment is never written down), and a sweep is resumed
with the same ones only; settings that change no number are free.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chainft.config.anchor import anchored
from chainft.config.changes import is_free, leaves
from chainft.config.kinds import show
from chainft.errors import ConfigError, Problem

_ABSENT = "absent"


@dataclass(frozen=True)
class Base:
    """The settings of all jobs of a sweep, by dotted key."""

    settings: Mapping[str, Any]
    """Those that are the same in all jobs and change numbers."""
    varied: tuple[str, ...]
    """Keys of those that differ between jobs."""


def base_of(jobs: Sequence[Mapping[str, Any]]) -> Base:
    """What the nested settings of `jobs` (at least one) share."""
    flat = [_plain(job) for job in jobs]
    keys = sorted({key for job in flat for key in job if not is_free(key)})
    varied = tuple(key for key in keys if any(job.get(key, _ABSENT) != flat[0].get(key, _ABSENT) for job in flat))
    return Base({key: flat[0][key] for key in keys if key not in varied}, varied)


def check_base(old: Base, new: Base, *, where: str) -> None:
    """Raise ConfigError that lists every setting in which a resumed sweep differs; `where`: the record of the old one.

    What varies in either is compared cell by cell, not here.
    """
    problems = [
        Problem(
            "changed-on-resume",
            f"{key} was {_shown(before)} in this sweep and is now {_shown(after)}",
            where=where,
            key=key,
            help="its cells would not compare: give the old value, or start another sweep in another sweep.dir",
        )
        for key, before, after in _differences(old, new)
    ]
    if problems:
        raise ConfigError.of(problems)


def _differences(old: Base, new: Base) -> Iterator[tuple[str, Any, Any]]:
    varied = {*old.varied, *new.varied}
    for key in sorted((old.settings.keys() | new.settings.keys()) - varied):
        before, after = old.settings.get(key, _ABSENT), new.settings.get(key, _ABSENT)
        if before != after:
            yield key, before, after


def _plain(job: Mapping[str, Any]) -> dict[str, Any]:
    """As `sweep.json` gives it back: tuples are lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(leaves(anchored(job))), default=str))
    return plain


def _shown(value: Any) -> str:
    return "not set" if value == _ABSENT else show(value)

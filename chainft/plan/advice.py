"""The least change with which a run fits the memory of its devices: what costs least time and needs no more devices first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from chainft.config.rules import RULES
from chainft.config.run import RunConfig
from chainft.errors import ConfigError, ModelError
from chainft.plan.followed import Followed, num_copies
from chainft.plan.scale import Scale

Planned = Callable[[RunConfig], Scale]


@dataclass(frozen=True)
class Change:
    """Settings with which it fits."""

    words: tuple[str, ...]
    total: int
    """Bytes of the worst rank then."""


def nearest_change(followed: Followed, planned: Planned) -> Change | None:
    """The first of smaller micro-batches, recomputed activations, FSDP, more places, these together, and more devices."""
    for changes in _candidates(followed):
        scale = _tried(followed.config, changes, planned)
        if scale is not None and scale.fits:
            words = tuple(f"{key}={str(value).lower()}" for key, value in changes.items())
            return Change(words, scale.worst.memory.total)
    return None


def _candidates(followed: Followed) -> Iterator[dict[str, Any]]:
    config, count = followed.config, followed.config.launch.num_processes
    launch = config.launch
    assert isinstance(count, int)
    sizes = [followed.rows >> power for power in (1, 2, 4, 8) if followed.rows >> power]
    yield from ({"train.micro_batch_size": size} for size in sizes)
    together: dict[str, Any] = {"train.micro_batch_size": 1} if followed.rows > 1 else {}
    if not config.train.gradient_checkpointing:
        yield {"train.gradient_checkpointing": True}
        together["train.gradient_checkpointing"] = True
    if num_copies(config) > 1 and not launch.fsdp:
        yield {"launch.fsdp": True}
        together["launch.fsdp"] = True
    places = [launch.pipeline * times for times in (2, 4, 8) if not count % (launch.pipeline * times)]
    yield from ({"launch.pipeline": several} for several in places)
    yield together
    yield from (together | {"launch.pipeline": several} for several in places)
    for times in (2, 4, 8, 16):
        more = {"launch.num_processes": count * times}
        if launch.fsdp or num_copies(config) > 1:
            yield together | more | {"launch.fsdp": True}
        yield together | more | {"launch.pipeline": launch.pipeline * times}


def _tried(config: RunConfig, changes: dict[str, Any], planned: Planned) -> Scale | None:
    """The plan of the changed run; None where the change is refused."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    made: dict[str, Any] = {
        section: dataclasses.replace(getattr(config, section), **values) for section, values in sections.items()
    }
    changed = dataclasses.replace(config, **made)
    if any(problem for rule in RULES for problem in rule(changed)):
        return None
    try:
        return planned(changed)
    except (ConfigError, ModelError):  # A cut that the chain or the model does not take.
        return None

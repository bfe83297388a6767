"""Plug-ins by name: finds the class for `task=ner`, `data=conll`, ... without importing the others.

A built-in plug-in is a module `<package>/<name>.py` that binds its class to `PLUGIN`
(one whose name begins with `_` is none). A third party's is
an entry point of the group, `name = "package.module:Class"`. Nothing is imported until it is asked for,
so installing a package never runs its code here; `CHAINFT_PLUGINS` narrows which installed packages may.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from chainft.errors import ConfigError, SecurityError, did_you_mean

Kind = Literal["task", "source", "metric", "augmentation"]

OWN = "chainft"
"""The package whose plug-ins are ours."""
_PACKAGES: dict[Kind, str] = {
    "task": "chainft.tasks",
    "source": "chainft.data.sources",
    "metric": "chainft.metrics",
    "augmentation": "chainft.augmentations",
}
_GROUPS: dict[Kind, str] = {
    "task": "chainft.tasks",
    "source": "chainft.sources",
    "metric": "chainft.metrics",
    "augmentation": "chainft.augmentations",
}


@dataclass(frozen=True)
class Plugin:
    """Where a plug-in comes from; `load` imports it."""

    kind: Kind
    name: str
    target: str
    """`package.module:Class`."""
    distribution: str
    """The installed package that brings it."""

    def load(self) -> Any:
        """The plug-in class. Raises SecurityError when its package is not on the allowlist."""
        if self.distribution != OWN:
            _check_allowed(self)
        module, _, attribute = self.target.partition(":")
        if self.distribution == OWN:
            return getattr(importlib.import_module(module), attribute)
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{self.kind} {self.name!r} of package {self.distribution!r} cannot be loaded: {error}",
                slug="broken-plugin",
                where=self.target,
                help=f"mend or upgrade the package {self.distribution!r}",
            ) from error


def find(kind: Kind, name: str, *, key: str) -> Any:
    """The class registered as `name`. Raises ConfigError at `key` that lists the names there are."""
    known = {plugin.name: plugin for plugin in plugins(kind)}
    if name not in known:
        raise ConfigError(
            f"{kind} {name!r} does not exist; there are: {', '.join(sorted(known))}",
            slug=f"unknown-{kind}",
            key=key,
            help=did_you_mean(name, known),
        )
    return known[name].load()


@cache
def plugins(kind: Kind) -> tuple[Plugin, ...]:
    """All plug-ins of a kind, ours first; ours win over a third party's of the same name."""
    own = tuple(_built_in(kind))
    taken = {plugin.name for plugin in own}
    return own + tuple(plugin for plugin in _installed(kind) if plugin.name not in taken)


def _built_in(kind: Kind) -> Iterator[Plugin]:
    package = _PACKAGES[kind]
    folder = Path(__file__).parent.joinpath(*package.split(".")[1:])
    for file in sorted(folder.glob("*.py")):
        if file.stem != "base" and not file.stem.startswith("_"):
            yield Plugin(kind, file.stem, f"{package}.{file.stem}:PLUGIN", OWN)


def _installed(kind: Kind) -> Iterator[Plugin]:
    found: list[EntryPoint] = sorted(entry_points(group=_GROUPS[kind]), key=lambda point: point.name)
    for point in found:
        distribution = point.dist.name if point.dist else "unknown"
        yield Plugin(kind, point.name, point.value, distribution)


def _check_allowed(plugin: Plugin) -> None:
    allowed = os.environ.get("CHAINFT_PLUGINS")
    names = {name.strip() for name in allowed.split(",")} if allowed is not None else None
    if names is not None and plugin.distribution not in names:
        raise SecurityError(
            f"{plugin.kind} {plugin.name!r} of package {plugin.distribution!r} is not allowed here",
            slug="plugin-not-allowed",
            where=f"CHAINFT_PLUGINS={allowed}",
            help=f"add {plugin.distribution!r} to CHAINFT_PLUGINS (comma-separated) if you trust it",
        )

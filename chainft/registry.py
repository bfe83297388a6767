"""Plug-ins by name: finds the class for `task=ner`, `data=conll`, ... without importing the others.

A built-in plug-in is a module `<package>/<name>.py` that binds its class to `PLUGIN`
(one whose name begins with `_` is none). A third party's is
an entry point of the group, `name = "package.module:Class"`. Nothing is imported until it is asked for,
so installing a package never runs its code here; `CHAINFT_PLUGINS` narrows which installed packages may.
What is wrong with an installed package is an error of the one plug-in that is asked for, never of other commands.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from chainft import __version__
from chainft.errors import ConfigError, SecurityError, did_you_mean
from chainft.installed import damaged, entry_points
from chainft.plugin_checks import class_problems, version_problem

Kind = Literal["task", "source", "metric", "head", "connector", "stage", "augmentation"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OWN = "chainft"
"""The package whose plug-ins are ours."""
PACKAGES: dict[Kind, str] = {
    "task": "chainft.tasks",
    "source": "chainft.data.sources",
    "metric": "chainft.metrics",
    "head": "chainft.heads",
    "connector": "chainft.connectors",
    "stage": "chainft.stage_kinds",
    "augmentation": "chainft.augmentations",
}
"""Where our own plug-ins of a kind are; `base` there has the class that all of them extend."""
GROUPS: dict[Kind, str] = {
    "task": "chainft.tasks",
    "source": "chainft.sources",
    "metric": "chainft.metrics",
    "head": "chainft.heads",
    "connector": "chainft.connectors",
    "stage": "chainft.stages",
    "augmentation": "chainft.augmentations",
}
"""Entry point groups."""
_ARGUMENTS: dict[Kind, int] = {"metric": 0, "augmentation": 2}
"""With how much a plug-in is made; others with their settings alone."""
_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_NAME = re.compile(r"[A-Za-z]\w*")


@dataclass(frozen=True)
class Plugin:
    """Where a plug-in comes from; `load` imports it."""

    kind: Kind
    name: str
    target: str
    """`package.module:Class`."""
    distribution: str
    """The installed package that brings it."""
    version: str = ""
    requires: tuple[str, ...] = ()
    """What that package requires, as its metadata say."""
    rivals: tuple[Plugin, ...] = field(default=(), compare=False)
    """Plug-ins of other packages that have the same name."""

    def load(self) -> Any:
        """The plug-in class, checked to be one.

        Raises SecurityError when its package is not on the allowlist, ConfigError that names package, entry point and
        cause for one that cannot be imported, is no plug-in of its kind, or whose name another package has too.
        """
        if self.distribution == OWN:
            return _import(self.target)
        chosen = self._chosen()
        if chosen is not self:
            return chosen.load()
        if problem := version_problem(self.requires, OWN, __version__):
            raise self._broken(problem, help=f"upgrade {self.distribution!r} or chainft")
        found = self._imported()
        interface = _import(f"{PACKAGES[self.kind]}.base:{self.kind.capitalize()}")
        if problems := class_problems(found, interface, arguments=_ARGUMENTS.get(self.kind, 1)):
            raise self._broken("; ".join(problems))
        return found

    def _chosen(self) -> Plugin:
        """Of several packages that have this name, the one that is allowed."""
        allowed = [one for one in (self, *self.rivals) if is_allowed(one.distribution)]
        if not allowed:
            raise _not_allowed(self)
        if len(allowed) > 1:
            packages = ", ".join(repr(one.distribution) for one in allowed)
            raise ConfigError(
                f"{self.kind} {self.name!r} is offered by several installed packages: {packages}",
                slug="ambiguous-plugin",
                where="; ".join(one.entry_point for one in allowed),
                help=f"uninstall all but one, or allow only one: CHAINFT_PLUGINS={allowed[0].distribution}",
            )
        return allowed[0]

    @property
    def entry_point(self) -> str:
        """As the metadata of its package have it."""
        return f"{GROUPS[self.kind]}: {self.name} = {self.target}"

    def _imported(self) -> Any:
        if not _TARGET.fullmatch(self.target):
            raise self._broken("its entry point is not of the form package.module:Class")
        if not _NAME.fullmatch(self.name):
            raise self._broken("its name is not made of letters, digits and underscores")
        try:
            return _import(self.target)
        except (Exception, SystemExit) as error:  # Code of others may raise anything when it is imported.
            cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise self._broken(_short(cause)) from error

    def _broken(self, cause: str, *, help: str | None = None) -> ConfigError:
        package = f"{self.distribution!r} {self.version}".rstrip()
        return ConfigError(
            f"{self.kind} {self.name!r} of package {package} cannot be loaded: {cause}",
            slug="broken-plugin",
            where=self.entry_point,
            help=help or f"mend or upgrade the package {self.distribution!r}; CHAINFT_DEBUG=1 shows the traceback",
        )


def find(kind: Kind, name: str, *, key: str) -> Any:
    """The class registered as `name`. Raises ConfigError at `key` that lists the names there are."""
    known = {plugin.name: plugin for plugin in plugins(kind)}
    if name not in known:
        raise ConfigError(
            f"{kind} {name!r} does not exist; there are: {', '.join(sorted(known))}",
            slug=f"unknown-{kind}",
            key=key,
            help=did_you_mean(name, known) or _damaged_help(),
        )
    return known[name].load()


@cache
def plugins(kind: Kind) -> tuple[Plugin, ...]:
    """All plug-ins of a kind, ours first; ours win over a third party's of the same name."""
    found = {plugin.name: plugin for plugin in _built_in(kind)}
    for plugin in installed(kind):
        first = found.setdefault(plugin.name, plugin)
        if first is not plugin and first.distribution != OWN:
            found[plugin.name] = replace(first, rivals=(*first.rivals, plugin))
    return tuple(found.values())


def installed(kind: Kind) -> list[Plugin]:
    """What other packages bring, by name and package, whether or not it can be loaded or used."""
    found = [
        Plugin(kind, point.name, point.value, point.package, point.version, point.requires)
        for point in entry_points(GROUPS[kind])
    ]
    return sorted(found, key=lambda plugin: (plugin.name, plugin.distribution))


def is_allowed(distribution: str) -> bool:
    """Whether `CHAINFT_PLUGINS`, where it is set, lists this package."""
    allowed = os.environ.get("CHAINFT_PLUGINS")
    return allowed is None or _normal(distribution) in {_normal(name) for name in allowed.split(",")}


def _normal(distribution: str) -> str:
    """A package name as packaging compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def _built_in(kind: Kind) -> Iterator[Plugin]:
    package = PACKAGES[kind]
    folder = Path(__file__).parent.joinpath(*package.split(".")[1:])
    for file in sorted(folder.glob("*.py")):
        if file.stem != "base" and not file.stem.startswith("_"):
            yield Plugin(kind, file.stem, f"{package}.{file.stem}:PLUGIN", OWN)


def _import(target: str) -> Any:
    module, _, path = target.partition(":")
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def _short(text: str, most: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _damaged_help() -> str | None:
    """Where the name may have been, if a package cannot be read."""
    found = [f"the plug-ins of package {one.package!r} cannot be read: {one.reason}" for one in damaged()]
    return "; ".join(found) or None


def _not_allowed(plugin: Plugin) -> SecurityError:
    return SecurityError(
        f"{plugin.kind} {plugin.name!r} of package {plugin.distribution!r} is not allowed here",
        slug="plugin-not-allowed",
        where=f"CHAINFT_PLUGINS={os.environ.get('CHAINFT_PLUGINS')}",
        help=f"add {plugin.distribution!r} to CHAINFT_PLUGINS (comma-separated) if you trust it",
    )

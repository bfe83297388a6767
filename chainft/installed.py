"""Entry points of installed packages, read one package at a time: one with damaged metadata hides only itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, distributions


@dataclass(frozen=True)
class EntryPoint:
    """A name that a package registers."""

    group: str
    name: str
    value: str
    package: str
    version: str
    requires: tuple[str, ...]
    """Requirements of the package, as its metadata have them."""


@dataclass(frozen=True)
class Damaged:
    """A package whose entry points cannot be read."""

    package: str
    reason: str


def entry_points(group: str) -> list[EntryPoint]:
    """The entry points of a group in all installed packages."""
    return [point for point in _read()[0] if point.group == group]


def damaged() -> list[Damaged]:
    """Packages with entry points for chainft that cannot be read."""
    return _read()[1]


@cache
def _read() -> tuple[list[EntryPoint], list[Damaged]]:
    points: list[EntryPoint] = []
    broken: list[Damaged] = []
    seen: set[str] = set()
    for distribution in distributions():
        text = distribution.read_text("entry_points.txt")
        if not text or "chainft." not in text:
            continue
        name = _name_of(distribution)
        if name in seen:  # One that stands earlier on the path hides it, as for `import`.
            continue
        seen.add(name)
        try:
            points += _points(distribution, name, text)
        except ValueError as error:
            broken.append(Damaged(name, str(error)))
    return points, broken


def _points(distribution: Distribution, package: str, text: str) -> Iterator[EntryPoint]:
    version, requires = _field(distribution, "Version"), tuple(distribution.requires or ())
    group = ""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        if group.startswith("chainft.") and not equals:
            raise ValueError(f"line {number} of its entry_points.txt is not of the form name = value: {line!r}")
        if group.startswith("chainft."):
            yield EntryPoint(group, name, value, package, version, requires)


def _name_of(distribution: Distribution) -> str:
    """The package's name, else that of its folder of metadata, which is there even where the metadata are damaged."""
    if name := _field(distribution, "Name"):
        return name
    folder = getattr(distribution, "_path", None)
    return re.sub(r"(-[^-]*)?\.(dist-info|egg-info)$", "", folder.name) if folder is not None else "unknown"


def _field(distribution: Distribution, key: str) -> str:
    metadata = distribution.metadata
    return str(metadata[key]) if key in metadata else ""

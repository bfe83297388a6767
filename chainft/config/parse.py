"""Plain data (what YAML and the command line give) to frozen dataclasses, strictly, and back.

Nothing is guessed and nothing is dropped: an unknown key, a wrong type or a value outside its range is a
`Problem` with its dotted key, and one `ConfigError` reports all of them. The one leniency: text that is
wholly a number (`"1e-5"`) is read as that number where a number is wanted, since PyYAML and environment
variables give text for it; text with anything around it (`"1e-5 "`) is refused.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from chainft import registry
from chainft.config import kinds
from chainft.config.kinds import dump, show
from chainft.config.spellings import hint_for
from chainft.errors import ConfigError, Problem, did_you_mean

__all__ = ["dump", "parse"]

T = TypeVar("T")

_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class _Wrong:
    """Stands for a value that could not be read; its problem is recorded."""


_WRONG = _Wrong()


def parse(kind: type[T], data: object, *, at: str = "") -> T:
    """Read `data` as a `kind`. Raises ConfigError with every violation; `at` is put before their keys.

    >>> from chainft.config.run import OptimizerConfig
    >>> parse(OptimizerConfig, {"lr": "3e-4"}).lr
    0.0003
    """
    reader = _Reader(kind, data, at)
    value = reader.read(kind, data, at)
    if reader.problems:
        raise ConfigError.of(reader.problems)
    return cast(T, value)


class _Reader:
    """Reads one tree of data and collects what is wrong with it."""

    def __init__(self, root: Any, root_data: object, root_at: str, *, exact: bool = False) -> None:
        self.problems: list[Problem] = []
        self.root = (root, root_data, root_at)
        self.exact = exact
        """Read no text as a number: the first pass over a union, where text may be meant."""

    def read(self, kind: Any, data: object, at: str) -> object:
        base, limits = kinds.unwrap(kind)
        origin = get_origin(base)
        if base is Any:
            return data
        if isinstance(base, type) and dataclasses.is_dataclass(base):
            return self._record(base, data, at)
        if origin in (Union, types.UnionType):
            return self._union(base, data, at)
        if origin is Literal:
            return self._choice(base, data, at)
        if origin is tuple:
            return self._list(base, data, at)
        if origin is not None and issubclass(origin, Mapping):
            return self._mapping(base, data, at)
        value = self._scalar(base, data)
        if isinstance(value, _Wrong):
            return self._wrong_type(kind, data, at)
        if limits is not None and isinstance(value, (int, float)) and not limits.contains(value):
            return self._add("out-of-range", f"{at} = {show(data)} is outside {limits}", at)
        return value

    # Scalars ------------------------------------------------------------------------------------

    def _scalar(self, kind: Any, data: object) -> object:
        if kind is types.NoneType or kind is None:
            return None if data is None else _WRONG
        if kind is Path:
            return Path(data) if isinstance(data, str) else _WRONG
        if type(data) is kind:
            return data
        if kind is float and type(data) is int:
            return float(data)
        if isinstance(data, str) and not self.exact:
            if kind is int and _INTEGER.fullmatch(data):
                return int(data)
            if kind is float and _NUMBER.fullmatch(data):
                return float(data)
        return _WRONG

    def _choice(self, kind: Any, data: object, at: str) -> object:
        allowed = get_args(kind)
        if any(data == choice and type(data) is type(choice) for choice in allowed):
            return data
        words = [str(choice) for choice in allowed]
        near = did_you_mean(str(data), words) if data is not None else None
        return self._add("not-a-choice", f"{at} = {show(data)} is not one of {', '.join(words)}", at, near)

    def _wrong_type(self, kind: Any, data: object, at: str) -> _Wrong:
        message = f"{at or 'config'} = {show(data)}: expected {kinds.expected(kind)}, got {_name(data)}"
        return self._add("wrong-type", message, at, _type_help(kind, data, at))

    # Containers ---------------------------------------------------------------------------------

    def _list(self, kind: Any, data: object, at: str) -> object:
        if isinstance(data, str) or not isinstance(data, Sequence):
            return self._wrong_type(kind, data, at)
        items = tuple(self.read(get_args(kind)[0], item, f"{at}[{i}]") for i, item in enumerate(data))
        return _WRONG if any(isinstance(item, _Wrong) for item in items) else items

    def _mapping(self, kind: Any, data: object, at: str) -> object:
        if not isinstance(data, Mapping):
            return self._wrong_type(kind, data, at)
        values: dict[str, object] = {}
        for key, item in data.items():
            if not isinstance(key, str):
                self._add("wrong-type", f"{at}: the name {show(key)} is not text", at, "put it in quotes")
                continue
            values[key] = self.read(get_args(kind)[1], item, _join(at, key))
        return _WRONG if any(isinstance(value, _Wrong) for value in values.values()) else values

    def _record(self, base: type, data: object, at: str) -> object:
        if not isinstance(data, Mapping):
            return self._wrong_type(base, data, at)
        if kinds.must_be_named(base) and data.get("name") is None:
            return self._missing(base, at)
        try:
            cls = kinds.concrete(base, data, at)
        except ConfigError as error:
            self.problems.extend(error.problems)
            return _WRONG
        known = {info.name: info for info in kinds.fields_of(cls)}
        before = len(self.problems)
        for key, value in data.items():
            if key not in known:
                self._unknown(_join(at, str(key)), value)
        for info in known.values():
            if info.default is kinds.REQUIRED and info.name not in data:
                self._missing(info.kind, _join(at, info.name))
        values = {
            info.attribute: self.read(info.kind, data[name], _join(at, name))
            for name, info in known.items()
            if name in data
        }
        return _WRONG if len(self.problems) > before else self._build(cls, values, at)

    def _build(self, cls: type, values: Mapping[str, object], at: str) -> object:
        """Construct a record whose fields are all right; its own checks may still object."""
        try:
            return cls(**values)
        except ConfigError as error:
            self.problems.extend(error.problems)
        except ValueError as error:
            self._add("invalid", f"{at}: {error}", at)
        return _WRONG

    # Unions -------------------------------------------------------------------------------------

    def _union(self, kind: Any, data: object, at: str) -> object:
        """The first alternative that takes the data as it is, else the first that takes it converted."""
        options = kinds.members(kind)
        for exact in (True, False) if not self.exact else (True,):
            for option in sorted(options, key=lambda member: not _fits(member, data)):
                attempt = _Reader(*self.root, exact=exact)
                value = attempt.read(option, data, at)
                if not attempt.problems:
                    return value
        return self._no_option(kind, data, at)

    def _no_option(self, kind: Any, data: object, at: str) -> _Wrong:
        options = [option for option in kinds.members(kind) if option is not types.NoneType]
        fitting = [option for option in options if _fits(option, data)]
        if len(fitting) == 1 and (len(options) == 1 or isinstance(data, (Mapping, list, tuple))):
            self.read(fitting[0], data, at)
            return _WRONG
        if isinstance(data, str) or not fitting:
            literals = [str(choice) for choice in kinds.choices(kind) if isinstance(choice, str)]
            near = did_you_mean(data, literals) if isinstance(data, str) else None
            message = f"{at} = {show(data)}: expected {kinds.expected(kind)}, got {_name(data)}"
            return self._add("wrong-type", message, at, near or _type_help(kind, data, at))
        return self._add("out-of-range", f"{at} = {show(data)}: expected {kinds.expected(kind)}", at)

    # Problems -----------------------------------------------------------------------------------

    def _unknown(self, path: str, value: object) -> None:
        """Report an unknown key; of an unknown group, each setting in it."""
        if isinstance(value, Mapping) and 0 < len(value) <= 5:
            for key, inner in value.items():
                self._unknown(_join(path, str(key)), inner)
            return
        self._add("unknown-key", f"{path} is not a setting", path, hint_for(path, *self.root))

    def _missing(self, kind: Any, path: str) -> _Wrong:
        """Report a required setting that is not there; of plug-ins, list which there are."""
        if plugin_kind := kinds.PLUGIN_KINDS.get(kind):
            names = ", ".join(sorted(plugin.name for plugin in registry.plugins(plugin_kind)))
            return self._add(
                "missing-key", f"{path} is not given; there are: {names}", path, f"choose one: {path}=..."
            )
        return self._add("missing-key", f"{path} is not given: expected {kinds.expected(kind)}", path)

    def _add(self, slug: str, message: str, at: str, help: str | None = None) -> _Wrong:
        self.problems.append(Problem(slug, message, key=at or None, help=help))
        return _WRONG


def _fits(kind: Any, data: object) -> bool:
    """Whether the data has the shape of the kind, its range apart."""
    base, _ = kinds.unwrap(kind)
    origin = get_origin(base)
    if origin is Literal:
        return any(type(choice) is type(data) for choice in get_args(base))
    if origin is tuple:
        return isinstance(data, Sequence) and not isinstance(data, str)
    if dataclasses.is_dataclass(base) or (origin is not None and issubclass(origin, Mapping)):
        return isinstance(data, Mapping)
    return type(data) is base or (base is float and type(data) is int)


def _type_help(kind: Any, data: object, at: str) -> str | None:
    """How to write it right, for the slips that are common."""
    wanted = {kinds.unwrap(member)[0] for member in kinds.members(kind)}
    if isinstance(data, str):
        stripped = data.strip()
        if wanted & {int, float} and stripped != data and _NUMBER.fullmatch(stripped):
            return f"there are blanks within the quotes; write {stripped}"
        if bool in wanted and stripped.casefold() in _SPOKEN:
            return f"write {_SPOKEN[stripped.casefold()]}, without quotes"
        if any(get_origin(member) is tuple for member in wanted):
            return f"write a list: {at}=[{data}]"
    if int in wanted and isinstance(data, float) and data.is_integer():
        return f"write {int(data)}"
    if str in wanted and isinstance(data, (bool, int, float)):
        return f'put it in quotes: in YAML "{data}", in a shell \'{at}="{data}"\''
    return None


_SPOKEN = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}


def _name(data: object) -> str:
    if data is None:
        return "null"
    names: list[tuple[type, str]] = [
        (bool, "true or false"),
        (int, "a whole number"),
        (float, "a number"),
        (str, "text"),
        (Mapping, "a mapping"),
        (Sequence, "a list"),
    ]
    return next((name for kind, name in names if isinstance(data, kind)), type(data).__name__)


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key

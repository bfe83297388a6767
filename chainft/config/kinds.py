"""What a config field's type allows: unwraps annotations, lists fields, words what is expected.

`parse` reads values by it, `describe` and shell completion show it, hints search it.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from chainft import registry
from chainft.config.chain import ConnectorConfig, StageKindConfig
from chainft.config.ranges import Limits
from chainft.config.run import DataConfig, HeadConfig, TaskConfig

PLUGIN_KINDS: Mapping[type, registry.Kind] = {
    TaskConfig: "task",
    DataConfig: "source",
    HeadConfig: "head",
    ConnectorConfig: "connector",
    StageKindConfig: "stage",
}
"""Config classes of which the plug-in named in `name` has the real one."""

_NODES: Mapping[registry.Kind, str] = {
    "task": "task",
    "source": "data",
    "metric": "task.metrics",
    "head": "head",
    "connector": "chain.stages.NAME.connector",
    "stage": "chain.stages.NAME.kind",
    "augmentation": "augment",
}

REQUIRED: Any = dataclasses.MISSING


@dataclass(frozen=True)
class FieldInfo:
    """One field of a config class."""

    name: str
    """As users write it; `with_` and `from_`, which Python would not take otherwise, are `with` and `from`."""
    attribute: str
    kind: Any
    """Its type as annotated, `Annotated` and unions included."""
    default: Any
    """Its default, or `REQUIRED`."""


@cache
def fields_of(cls: type) -> tuple[FieldInfo, ...]:
    """The fields of a config class in their order."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple(
        FieldInfo(f.name.rstrip("_"), f.name, hints[f.name], _default(f)) for f in dataclasses.fields(cls) if f.init
    )


def unwrap(kind: Any) -> tuple[Any, Limits | None]:
    """The bare type and its limits: `Annotated[int, Limits(low=1)]` -> `(int, Limits(low=1))`."""
    if get_origin(kind) is not Annotated:
        return kind, None
    base, *notes = get_args(kind)
    limits = next((note for note in notes if isinstance(note, Limits)), None)
    return base, limits


def members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union (flat), or the kind alone."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(inner for member in get_args(kind) for inner in members(member))
    return (kind,)


def config_class(kind: Any) -> type | None:
    """The config class among the alternatives of `kind`, if there is one."""
    return next((m for m in members(kind) if isinstance(m, type) and dataclasses.is_dataclass(m)), None)


def named_class(kind: Any) -> type | None:
    """The config class of the values of a mapping by name, such as `chain.stages`; None for any other kind."""
    base, _ = unwrap(kind)
    origin = get_origin(base)
    is_mapping = isinstance(origin, type) and issubclass(origin, Mapping)
    return config_class(get_args(base)[1]) if is_mapping else None


def node_of(kind: registry.Kind) -> str:
    """The node of the config in which a plug-in of this kind is named, as its `name`."""
    return _NODES[kind]


def kind_of(group: str) -> registry.Kind | None:
    """The kind of the plug-ins that a group of the config names; None: it names none."""
    return next((kind for kind in PLUGIN_KINDS.values() if node_of(kind) == group), None)


def must_be_named(cls: type) -> bool:
    """Whether a config class is that of plug-ins of which one has to be chosen."""
    return cls in PLUGIN_KINDS and next(info for info in fields_of(cls) if info.name == "name").default is REQUIRED


def concrete(cls: type, data: object, at: str | None = None) -> type:
    """The config class of the plug-in that `data` names, or `cls` where none applies; `at`: its key, for messages.

    Raises ConfigError for a name that is no plug-in, SecurityError for one that is not allowed.
    """
    kind = PLUGIN_KINDS.get(cls)
    name = data.get("name") if isinstance(data, Mapping) else None
    if kind is None or not isinstance(name, str):
        return cls
    found: type = registry.find(kind, name, key=f"{at or node_of(kind)}.name").config_class
    return found


def expected(kind: Any) -> str:
    """What a value of this kind is, in words: `a whole number in [1, inf) or null`."""
    return " or ".join(dict.fromkeys(_one_expected(member) for member in members(kind)))


def choices(kind: Any) -> tuple[Any, ...]:
    """The literal values that a kind allows, for completion; empty where it is open."""
    found: list[Any] = []
    for member in members(kind):
        base, _ = unwrap(member)
        if get_origin(base) is Literal:
            found.extend(get_args(base))
        elif base is bool:
            found.extend((True, False))
    return tuple(found)


def leaf_paths(cls: type, data: object = None, *, at: str = "") -> Iterator[str]:
    """Dotted paths of all settings below a config class, with the plug-ins' own that `data` names."""
    for info in fields_of(cls):
        path = f"{at}.{info.name}" if at else info.name
        inner, named = config_class(info.kind), named_class(info.kind)
        below = data.get(info.name) if isinstance(data, Mapping) else None
        if named is not None and isinstance(below, Mapping):
            for name in below:
                yield from leaf_paths(concrete(named, below[name]), below[name], at=f"{path}.{name}")
        if inner is None or choices(info.kind):
            yield path
        if inner is not None:
            yield from leaf_paths(concrete(inner, below), below, at=path)


def defaults_of(cls: type, data: object = None) -> dict[str, Any]:
    """The default of every setting below a config class, as plain data; required ones are left out."""
    found: dict[str, Any] = {}
    for info in fields_of(cls):
        inner = config_class(info.kind)
        below = data.get(info.name) if isinstance(data, Mapping) else None
        if inner is not None and not choices(info.kind):
            found[info.name] = defaults_of(concrete(inner, below), below)
        elif info.default is not REQUIRED:
            found[info.name] = dump(info.default)
    return found


def dump(config: object) -> Any:
    """The plain data of a parsed config with every default: dicts, lists, scalars."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {info.name: dump(getattr(config, info.attribute)) for info in fields_of(type(config))}
    if isinstance(config, Mapping):
        return {str(key): dump(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [dump(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def show(value: object) -> str:
    """A value as a person writes it in YAML, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    types.NoneType: "null",
}


def _one_expected(kind: Any) -> str:
    base, limits = unwrap(kind)
    origin = get_origin(base)
    if limits is not None:
        return f"{_WORDS.get(base, str(base))} in {limits}"
    if origin is Literal:
        return " or ".join(str(choice) for choice in get_args(base))
    if origin is tuple:
        return f"a list (each {expected(get_args(base)[0])})"
    if origin is not None and issubclass(origin, Mapping):
        return f"a mapping (name: {expected(get_args(base)[1])})"
    if isinstance(base, type) and dataclasses.is_dataclass(base):
        return "a mapping of settings"
    return _WORDS.get(base, getattr(base, "__name__", str(base)))

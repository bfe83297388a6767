"""What a plug-in class must be, told by the name of what is missing, before it is used.

The interface says what it needs: its abstract methods, and its `ClassVar`s that have no default.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin, get_type_hints


def class_problems(found: Any, interface: type, *, arguments: int) -> list[str]:
    """What keeps `found` from being a plug-in that extends `interface`; empty for a sound one.

    `arguments`: how many chainft makes it with (its settings, or nothing).
    """
    name = f"{interface.__module__}.{interface.__qualname__}"
    if not isinstance(found, type):
        return [f"it is {_what(found)}, not a class that extends {name}"]
    if not issubclass(found, interface):
        return [f"class {found.__qualname__} does not extend {name}"]
    return [
        *_missing(found, interface),
        *_constructor_problems(found, arguments),
        *_config_problems(found, interface),
    ]


def version_problem(requires: Sequence[str], package: str, version: str) -> str | None:
    """Why `version` of `package` is not what these requirements ask for; None where it is, or nothing is asked."""
    for requirement in requires:
        if not re.match(rf"{package}\s*([\[(<>=!~;@]|$)", requirement, re.IGNORECASE):
            continue
        from packaging.requirements import InvalidRequirement, Requirement

        try:
            wanted = Requirement(requirement)
        except InvalidRequirement as error:
            return f"its requirement {requirement!r} cannot be read: {error}"
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            return f"it requires {requirement}, this is {package} {version}"
    return None


def _missing(found: type, interface: type) -> Iterator[str]:
    """Methods and class attributes of the interface that the class does not give.

    A class with a `__new__` of its own may make instances of subclasses, which give them.
    """
    if found.__new__ is not interface.__new__:
        return
    methods = sorted(getattr(found, "__abstractmethods__", ()))
    if methods:
        yield f"class {found.__qualname__} lacks the {_counted('method', methods)}"
    attributes = [name for name in _required(interface) if not hasattr(found, name)]
    if attributes:
        yield f"class {found.__qualname__} lacks the {_counted('class attribute', attributes)}"


def _constructor_problems(found: type, arguments: int) -> Iterator[str]:
    try:
        inspect.signature(found).bind(*[None] * arguments)
    except TypeError as error:
        made = f"{found.__qualname__}({'config' if arguments else ''})"
        yield f"it cannot be made by {made}: {error}"


def _required(interface: type) -> list[str]:
    """Names that the interface declares as `ClassVar` and gives no value."""
    return [
        name
        for name, annotation in inspect.get_annotations(interface).items()
        if str(annotation).startswith("ClassVar") and not hasattr(interface, name)
    ]


def _config_problems(found: Any, interface: type) -> Iterator[str]:
    """What is wrong with the class of its settings, where the interface has one."""
    if "config_class" not in inspect.get_annotations(interface) or not hasattr(found, "config_class"):
        return
    config, base = found.config_class, _config_base(interface)
    name = getattr(config, "__qualname__", repr(config))
    if not isinstance(config, type):
        yield f"config_class is {_what(config)}, not a class"
    elif not issubclass(config, base):
        yield f"config_class {name} does not extend {base.__module__}.{base.__qualname__}"
    elif config is not base and "__dataclass_params__" not in vars(config) and inspect.get_annotations(config):
        yield f"config_class {name} lacks the decorator @dataclass(frozen=True, kw_only=True), so its fields count for nothing"
    else:
        yield from _field_problems(config, name)


def _config_base(interface: type) -> type:
    """`ClassVar[type[TaskConfig]]` -> `TaskConfig`."""
    module = inspect.getmodule(interface)
    wanted: Any = re.sub(
        r"^ClassVar\[type\[(\w+)\]\]$", r"\1", str(inspect.get_annotations(interface)["config_class"])
    )
    base: type = getattr(module, wanted)
    return base


def _field_problems(config: type, name: str) -> Iterator[str]:
    try:
        hints = get_type_hints(config, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError) as error:
        yield f"the types of config_class {name} cannot be read: {error} (import them outside of TYPE_CHECKING)"
        return
    for one in dataclasses.fields(config):
        if _holds(hints[one.name], (list, set, dict)):
            yield f"field {one.name!r} of config_class {name} has the type {hints[one.name]}: take tuple[T, ...] or Mapping[str, T]"


def _holds(kind: Any, unwanted: tuple[type, ...]) -> bool:
    return kind in unwanted or get_origin(kind) in unwanted or any(_holds(one, unwanted) for one in get_args(kind))


def _what(found: object) -> str:
    return "a module" if inspect.ismodule(found) else f"a {type(found).__name__}"


def _counted(noun: str, names: Sequence[str]) -> str:
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names)}"

"""Reads the YAML of a config: strictly, with the place of every key, and safe against hostile files.

Size, encoding, nesting, aliases and duplicate keys are checked on the node graph, before any value is built
(an alias bomb is small as a graph). Values follow YAML 1.2: `no` is text, `1e-5` a number, dates are text.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from chainft.errors import ConfigError

MAX_BYTES = 1_000_000
"""Largest config file. Real ones have a few kilobytes; 100 MB keep PyYAML busy for minutes."""
MAX_DEPTH = 30
MAX_VALUES = 50_000
"""Most values after aliases are expanded; `9^8` of them stop Hydra for good."""

_YAML_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.CSafeLoader):
    """PyYAML's safe loader with the plain scalars of YAML 1.2 (plus `1e-5`, which 1.1 reads as text)."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own name)


for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+(_[0-9]+)*|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?([0-9]+(_[0-9]+)*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"{_YAML_TAG}{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first))


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back, and other readers too: what YAML 1.1 takes for no text gets quotes as well."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            *_Loader.yaml_implicit_resolvers.get(first, []),
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {*_Loader.yaml_implicit_resolvers, *yaml.SafeDumper.yaml_implicit_resolvers}
    }

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        """Text; in double quotes where PyYAML would write a Unicode line break as it is and read it as another."""
        style = '"' if any(char in data for char in "\x85\u2028\u2029\ufeff") else None
        return self.represent_scalar(f"{_YAML_TAG}str", data, style=style)


_Dumper.add_representer(str, _Dumper.text)
_Loader.add_constructor(f"{_YAML_TAG}int", lambda loader, node: int(str(node.value).replace("_", ""), 0))


@dataclass(frozen=True)
class Document:
    """A YAML file that passed."""

    path: Path
    text: str
    data: dict[str, Any]
    marks: Mapping[str, tuple[int, int]]
    """Dotted key -> line and column, both from 1."""

    def where(self, key: str) -> str | None:
        """`file:line:column` of a key."""
        place = self.marks.get(key)
        return f"{self.path}:{place[0]}:{place[1]}" if place else None


def read_yaml(path: Path) -> Document:
    """Read a config file. Raises ConfigError that says what is broken and where."""
    text = _text(path)
    try:
        _check_depth(path, text)
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise _broken(path, "the file is empty", help="write {} where nothing is to be set")
        if not isinstance(node, yaml.MappingNode):
            raise _broken(path, "the top level must be a mapping (key: value)", node.start_mark)
        _check_size(path, node)
        marks = dict(_marks(path, node, ""))
        data = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        raise _broken(path, _what(error), error.problem_mark or error.context_mark, help=_yaml_help(error)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = (
            f"the character {chr(error.character)!r} is not allowed in YAML"
            if isinstance(error.character, int)
            else "a character is not allowed in YAML"
        )
        raise ConfigError(message, slug="broken-yaml", where=f"{path}:{line}") from error
    except ValueError as error:
        raise ConfigError(f"a value cannot be read: {error}", slug="broken-yaml", where=str(path)) from error
    return Document(path, text, data, marks)


def read_trusted(path: Path) -> Document:
    """Read a file of an installed library as it is: no checks, no places; empty means nothing set."""
    text = path.read_text(encoding="utf-8")
    return Document(path, text, yaml.load(text, Loader=_Loader) or {}, {})


def to_yaml(data: object) -> str:
    """Plain data as YAML that `read_yaml` reads back unchanged."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _text(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{str(path)!r} is not a regular file", slug="not-a-file", where=str(path))
        if status.st_size > MAX_BYTES:
            raise ConfigError(
                f"the config file has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read",
                slug="config-too-large",
                where=str(path),
                help="examples belong into data files",
            )
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read the config file: {error.strerror}", slug="no-config-file", where=str(path)
        ) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"the file is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}",
            slug="not-utf-8",
            where=f"{path}:{line}",
            help="save it as UTF-8",
        ) from error


def _check_depth(path: Path, text: str) -> None:
    """Walk the events (no recursion in libyaml) so that deep nesting and long lists never become nodes."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if number > 2 * MAX_VALUES:
            raise _broken(path, f"more than {MAX_VALUES:,} values", event.start_mark, slug="config-too-large")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _broken(path, f"nested deeper than {MAX_DEPTH} levels", event.start_mark, slug="config-too-deep")


def _check_size(path: Path, root: yaml.Node) -> None:
    """Count values with aliases expanded, each node once; an alias to a node that holds it has no end."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            known = sizes[id(node)]
            if known is None:
                raise _broken(path, "an alias contains itself", node.start_mark, slug="alias-cycle")
            return known
        sizes[id(node)] = None
        total = 1 + sum(size(child) for child in _children(node))
        if total > MAX_VALUES:
            raise _broken(
                path, f"aliases expand to more than {MAX_VALUES:,} values", node.start_mark, slug="alias-bomb"
            )
        sizes[id(node)] = total
        return total

    size(root)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _marks(path: Path, node: yaml.Node, at: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """Where each key stands. Raises ConfigError for one that a mapping holds twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        if key.tag == f"{_YAML_TAG}merge":
            continue
        if name in seen:
            raise _broken(path, f"the key {name!r} is there twice", key.start_mark, slug="duplicate-key")
        seen.add(name)
        dotted = f"{at}.{name}" if at else name
        yield dotted, (key.start_mark.line + 1, key.start_mark.column + 1)
        yield from _marks(path, value, dotted)


def _what(error: yaml.MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.problem, error.context) if part)


def _yaml_help(error: yaml.MarkedYAMLError) -> str | None:
    problem = error.problem or ""
    if "cannot start any token" in problem:
        return "YAML is indented by blanks, not by tabs; text that starts with %, @ or ` needs quotes"
    if "mapping values are not allowed" in problem:
        return "text with ': ' in it needs quotes; and check the indentation"
    return None


def _broken(
    path: Path, message: str, mark: Any = None, *, slug: str = "broken-yaml", help: str | None = None
) -> ConfigError:
    where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
    return ConfigError(message, slug=slug, where=where, help=help)

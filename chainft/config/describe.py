"""What settings mean: their types, ranges and defaults, and the strings under the fields, from the source."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from chainft.config import kinds


@dataclass(frozen=True)
class Setting:
    """One setting as `chainft config show` prints it."""

    key: str
    expected: str
    """Type and range in words."""
    default: str | None
    """None where it must be given."""
    doc: str


def settings(cls: type, *, at: str = "", data: object = None) -> Iterator[Setting]:
    """All settings below a config class; `data` may name the plug-ins (`{task: {name: ner}}`).

    Of what users name themselves, such as stages, the keys have `NAME` in that place.
    """
    docs = field_docs(cls)
    for info in kinds.fields_of(cls):
        key = f"{at}.{info.name}" if at else info.name
        inner = kinds.config_class(info.kind)
        if inner is not None:
            below = data.get(info.name) if isinstance(data, Mapping) else None
            yield from settings(kinds.concrete(inner, below), at=key, data=below)
        if inner is not None and not kinds.choices(info.kind):
            continue
        default = None if info.default is kinds.REQUIRED else kinds.show(kinds.dump(info.default))
        yield Setting(key, kinds.expected(info.kind), default, docs.get(info.attribute, ""))
        if (named := kinds.named_class(info.kind)) is not None:
            yield from settings(named, at=f"{key}.NAME")


def class_doc(cls: type) -> str:
    """The docstring of a config class, first paragraph."""
    return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


@cache
def field_docs(cls: type) -> Mapping[str, str]:
    """Field -> the string under it, of the class and those that it extends."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is not object:
            docs.update(_docs_in_source(base))
    return docs


def _docs_in_source(cls: type) -> Iterator[tuple[str, str]]:
    """(field, string under it) pairs of the class body."""
    tree = ast.parse(inspect.cleandoc(inspect.getsource(cls)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for statement, following in pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            yield statement.target.id, inspect.cleandoc(following.value.value).replace("\n", " ")

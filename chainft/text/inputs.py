"""What users bring to `chainft predict`, checked: texts and lists of words, with the place for error messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chainft.data.example import Example, Origin
from chainft.errors import DataError, Problem, did_you_mean
from chainft.text.align import lone_surrogate


def origin_of(where: str) -> Origin:
    """`file:line` as an origin."""
    file, _, line = where.rpartition(":")
    return Origin(file, int(line)) if file and line.isdecimal() else Origin(where, 1)


def take(value: Mapping[str, Any], names: Sequence[str], *, where: str) -> Any:
    """The value under the first of `names` that the object has. Raises DataError that lists the keys it has."""
    for name in names:
        if name in value:
            return value[name]
    keys = list(value)
    near = next((hint for key in keys if (hint := did_you_mean(str(key), names[:1]))), None)
    raise DataError(
        f"the object has no {names[0]!r} but {', '.join(map(repr, keys)) or 'nothing'}",
        slug="missing-key",
        where=where,
        help=near or f"give {' or '.join(repr(name) for name in names[:3])}",
    )


def text_problems(value: object, name: str, where: str) -> Iterator[Problem]:
    """What keeps `value` from being a text that can be tokenised."""
    if not isinstance(value, str):
        shown = repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:37]}..."
        yield Problem("not-text", f"{name} must be text, not {shown} ({type(value).__name__})", where=where)
    elif (place := lone_surrogate(value)) is not None:
        yield Problem(
            "lone-surrogate",
            f"{name} has half of a surrogate pair ({value[place]!a}) at character {place}",
            where=where,
            help="the file was written by a tool that cut a text inside an emoji; mend or drop the row",
        )


def checked_text(value: object, name: str, *, where: str) -> str:
    """`value` if it is a sound text. Raises DataError."""
    problems = list(text_problems(value, name, where))
    if problems:
        raise DataError.of(problems)
    return str(value)


def text_example(values: Mapping[str, Any], where: str) -> Example:
    """An example of a user's input."""
    return Example(values, origin_of(where))

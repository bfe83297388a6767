"""Finds the columns that a task needs among those that the data have, and reads their values as the task's types."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chainft.config.run import DataConfig
from chainft.data.example import Example
from chainft.errors import ConfigError, DataError, Problem, did_you_mean

if TYPE_CHECKING:
    from chainft.tasks.base import Field, Task


@dataclass(frozen=True)
class ColumnMap:
    """For each field of the task, the column that holds it in rows of one form (with the same names)."""

    pairs: tuple[tuple[Field, str], ...]
    label_separator: str | None
    absent: tuple[Field, ...] = ()
    """Fields that such rows lack."""

    @classmethod
    def of(cls, task: Task, config: DataConfig, row: Example) -> ColumnMap:
        """Map by `data.columns`, else by name, else by alias."""
        found = [(field, find_column(field, config.columns, row.values)) for field in task.fields]
        pairs = tuple((field, column) for field, column in found if column is not None)
        return cls(pairs, config.label_separator, tuple(field for field, column in found if column is None))

    def apply(self, row: Example) -> Example | Problem:
        """The example under the task's names, or what is wrong with its values."""
        for field in self.absent:
            if field.required:
                return _missing(row, f"the column of {field.name!r}")
        values: dict[str, Any] = {}
        for field, column in self.pairs:
            value = look_up(row.values, column)
            if value is None or (isinstance(value, float) and math.isnan(value)):  # pandas writes NaN for nothing
                if field.required:
                    return _missing(row, f"column {column!r} ({field.name})")
                continue
            converted = _CONVERT[field.kind](value, self.label_separator)
            if converted is None:
                message = f"column {column!r}: expected {_WANTED[field.kind]}, got {_short(value)}"
                help = f"mend the value, or name another column by data.columns.{field.name}=COLUMN"
                return Problem("wrong-type", message, row.where(), help=help)
            values[field.name] = converted
        return replace(row, values=values)


def find_column(field: Field, chosen: Mapping[str, str | int], values: Mapping[str, Any]) -> str | None:
    """The column of a row that holds a field; None where it has none."""
    if field.name in chosen:
        return _referred(chosen[field.name], values)
    names = (field.name, *field.aliases)
    return next((one for one in names if one in values or ("." in one and look_up(values, one) is not None)), None)


def look_up(values: Mapping[str, Any], column: str) -> Any:
    """The value of a column, `a.b` inside of nested objects; None where the row lacks it."""
    if column in values:
        return values[column]
    value: Any = values
    for key in column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def check_columns(absent: Collection[Field], config: DataConfig, row: Example) -> None:
    """Raise DataError for fields that rows like `row` ought to have and lack, naming the columns there are."""
    for field in absent:
        if field.required or field.name in config.columns:
            raise _no_column(field, config.columns.get(field.name), list(_names(row.values)), row)


def check_settings(task: Task, config: DataConfig) -> None:
    """Raise ConfigError for settings that do not fit the task."""
    names = [field.name for field in task.fields]
    for name in config.columns:
        if name not in names:
            raise ConfigError(
                f"data.columns.{name}: task {task.config.name!r} has no such field; it reads {', '.join(names)}",
                slug="unknown-field",
                key=f"data.columns.{name}",
                help=did_you_mean(name, names),
            )
    if config.label_separator is not None and all(field.kind != "labels" for field in task.fields):
        raise ConfigError(
            f"data.label_separator={config.label_separator!r} has no effect: the task has one label per example",
            slug="no-effect",
            key="data.label_separator",
            help="for several labels per text use task=classify task.multi_label=true",
        )


def _referred(reference: str | int, values: Mapping[str, Any]) -> str | None:
    """The column of that name, perhaps inside of nested objects, else of that number (negative: from the end)."""
    name = str(reference)
    if name in values or look_up(values, name) is not None:
        return name
    if "0" in values:  # The columns are named by their numbers: what is no name is no column.
        return None
    number = int(name) if name.removeprefix("-").isdecimal() else len(values)
    return list(values)[number] if -len(values) <= number < len(values) else None


def _no_column(field: Field, reference: str | int | None, there: list[str], row: Example) -> DataError:
    if reference is not None:
        what = f"there is no column {str(reference)!r}"
        help = did_you_mean(str(reference), there) or f"set data.columns.{field.name} to a name, or a number from 0 on"
    else:
        what, help = f"no column holds {field.name!r}", f"say which one it is: data.columns.{field.name}=COLUMN"
        lists = [name for name, value in row.values.items() if field.kind == "label" and isinstance(value, list)]
        if lists:
            help += f"; if {lists[0]!r} holds any number of labels a text, set task.multi_label=true"
    return DataError(
        f"{what}; there are: {', '.join(there)}",
        slug="no-column",
        where=row.origin.file,
        key=f"data.columns.{field.name}",
        help=help,
    )


def _missing(row: Example, what: str) -> Problem:
    there = ", ".join(name for name, inner in row.values.items() if inner is not None)
    return Problem("missing-value", f"{what} is missing or empty; there are: {there}", row.where())


def _names(values: Mapping[str, Any], at: str = "") -> Iterator[str]:
    for name, inner in values.items():
        yield f"{at}{name}"
        if isinstance(inner, Mapping):
            yield from _names(inner, f"{at}{name}.")


def _text(value: Any, separator: str | None) -> str | None:
    return value if isinstance(value, str) else None


def _label(value: Any, separator: str | None) -> Any:
    """A label as text; a list is passed on for the task to refuse with advice."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return value if isinstance(value, str | list) else None


def _texts(value: Any, separator: str | None) -> list[str] | None:
    """Words: a list, or one text with blanks between them, as tables have it."""
    if isinstance(value, str):
        return _split(value)
    return list(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else None


def _labels(value: Any, separator: str | None) -> list[str] | None:
    if isinstance(value, str):
        parts = value.split(separator) if separator else [value]
        return [part.strip() for part in parts if part.strip()]
    return _names_of(value)


def _tags(value: Any, separator: str | None) -> list[str] | None:
    """Tags: a list of names or numbers, or one text with blanks between them, as tables have it."""
    return _split(value) if isinstance(value, str) else _names_of(value)


def _split(text: str) -> list[str]:
    """Parts between blanks and tabs only: other blanks of Unicode may be part of a word."""
    return [part for part in text.replace("\t", " ").split(" ") if part]


def _names_of(value: Any) -> list[str] | None:
    if not isinstance(value, list) or not all(isinstance(one, str | int) for one in value):
        return None
    return [str(one) for one in value]


def _value(value: Any, separator: str | None) -> Any:
    return value


_CONVERT = {"text": _text, "texts": _texts, "label": _label, "labels": _labels, "tags": _tags, "value": _value}
_WANTED = {
    "text": "text",
    "texts": "a list of words",
    "label": "a label",
    "labels": "a list of labels",
    "tags": "a list of tags",
    "value": "a value",
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

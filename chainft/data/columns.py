"""Finds the columns that a task needs among those that the data have, and reads their values as the task's types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chainft.config.run import DataConfig
from chainft.data.example import Example
from chainft.errors import ConfigError, DataError, Problem, did_you_mean

if TYPE_CHECKING:
    from chainft.tasks.base import Field, Task


@dataclass(frozen=True)
class ColumnMap:
    """For each field of the task, the column that holds it."""

    pairs: tuple[tuple[Field, str], ...]
    label_separator: str | None

    @classmethod
    def of(cls, task: Task, config: DataConfig, columns: tuple[str, ...], *, where: str) -> ColumnMap:
        """Map by `data.columns`, else by name, else by alias. Raises ConfigError or DataError naming what there is."""
        _check_settings(task, config)
        pairs = []
        for field in task.fields:
            column = _column(field, config.columns, columns, where)
            if column is not None:
                pairs.append((field, column))
        return cls(tuple(pairs), config.label_separator)

    def apply(self, row: Example) -> Example | Problem:
        """The example under the task's names, or what is wrong with its values."""
        values: dict[str, Any] = {}
        for field, column in self.pairs:
            value = row.values.get(column)
            if value is None:
                if field.required:
                    there = ", ".join(name for name, inner in row.values.items() if inner is not None)
                    return Problem(
                        "missing-value",
                        f"column {column!r} ({field.name}) is missing or empty; there are: {there}",
                        row.where(),
                    )
                continue
            converted = _CONVERT[field.kind](value, self.label_separator)
            if converted is None:
                wanted = _WANTED[field.kind]
                return Problem("wrong-type", f"column {column!r}: expected {wanted}, got {_short(value)}", row.where())
            values[field.name] = converted
        return replace(row, values=values)


def _check_settings(task: Task, config: DataConfig) -> None:
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


def _column(field: Field, chosen: Mapping[str, str], columns: tuple[str, ...], where: str) -> str | None:
    there = ", ".join(columns)
    if field.name in chosen:
        column = chosen[field.name]
        if column not in columns:
            raise DataError(
                f"there is no column {column!r}; there are: {there}",
                slug="no-column",
                where=where,
                key=f"data.columns.{field.name}",
                help=did_you_mean(column, columns),
            )
        return column
    for name in (field.name, *field.aliases):
        if name in columns:
            return name
    if not field.required:
        return None
    raise DataError(
        f"no column holds {field.name!r}; there are: {there}",
        slug="no-column",
        where=where,
        key=f"data.columns.{field.name}",
        help=f"say which one it is: data.columns.{field.name}=COLUMN",
    )


def _text(value: Any, separator: str | None) -> str | None:
    return value if isinstance(value, str) else None


def _label(value: Any, separator: str | None) -> Any:
    """A label as text; a list is passed on for the task to refuse with advice."""
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list):
        return value
    return value if isinstance(value, str) else None


def _texts(value: Any, separator: str | None) -> list[str] | None:
    return list(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else None


def _labels(value: Any, separator: str | None) -> list[str] | None:
    if isinstance(value, str):
        parts = value.split(separator) if separator else [value]
        return [part.strip() for part in parts if part.strip()]
    if not isinstance(value, list) or not all(isinstance(one, str | int) for one in value):
        return None
    return [str(one) for one in value]


def _tags(value: Any, separator: str | None) -> list[str] | None:
    return [str(one) for one in value] if isinstance(value, list) else None


_CONVERT = {"text": _text, "texts": _texts, "label": _label, "labels": _labels, "tags": _tags}
_WANTED = {
    "text": "text",
    "texts": "a list of words",
    "label": "a label",
    "labels": "a list of labels",
    "tags": "a list of tags",
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

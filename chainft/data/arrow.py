"""Rows of Arrow tables, which parquet files and the data sets of Hugging Face are made of.

Numbers of a `ClassLabel` column become their class names, wherever they stand in nested values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from chainft.data.example import Example, Origin
from chainft.errors import DataError, Problem

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1000


def rows(tables: Iterable[pa.Table], features: Mapping[str, Any], file: str) -> Iterator[Example | Problem]:
    """Each row, numbered from 0 over all tables; `features` describes columns as `datasets.Features.to_dict` does."""
    labelled = {name: feature for name, feature in features.items() if "ClassLabel" in json.dumps(feature)}
    number = 0
    for table in tables:
        for row in _values(table):
            origin = Origin(file, number, "row")
            number += 1
            if isinstance(row, UnicodeDecodeError):
                yield Problem("wrong-encoding", f"a text is not UTF-8: {row}", str(origin))
            else:
                yield Example(row | {name: named(row[name], labelled[name]) for name in labelled.keys() & row}, origin)


def check_names(names: Iterable[str], file: str, *, key: str | None) -> tuple[str, ...]:
    """The column names. Raises DataError when two are the same."""
    found = tuple(names)
    if twice := next((name for name in found if found.count(name) > 1), None):
        raise DataError(f"{file!r} has two columns {twice!r}", slug="same-name", where=file, key=key)
    return found


def named(value: Any, feature: Any) -> Any:
    """A value with class names for the numbers of `ClassLabel`; -1, which stands for no label, becomes None.

    >>> named([1, 0, -1], {"_type": "List", "feature": {"_type": "ClassLabel", "names": ["O", "B-PER"]}})
    ['B-PER', 'O', None]
    """
    if value is None or not isinstance(feature, (Mapping, list)):
        return value
    if isinstance(feature, list):
        return [named(item, feature[0]) for item in value]
    kind = feature.get("_type")
    if not isinstance(kind, str):  # a struct: each key has its own feature
        return {name: named(item, feature.get(name)) for name, item in value.items()}
    if kind == "ClassLabel":
        return _class_name(value, feature["names"])
    inner = feature.get("feature")
    if inner is None:
        return value
    if isinstance(value, Mapping):  # datasets before 4.0 stored a sequence of structs as a struct of lists
        return {name: [named(item, inner.get(name)) for item in items] for name, items in value.items()}
    return [named(item, inner) for item in value]


def _class_name(value: Any, names: list[str]) -> Any:
    return (names[value] if 0 <= value < len(names) else None) if isinstance(value, int) else value


def _values(table: pa.Table) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
    """The rows of a table as plain values; an undecodable text spoils its row only."""
    try:
        values: list[dict[str, Any]] = table.to_pylist()
    except UnicodeDecodeError as error:
        if table.num_rows == 1:
            yield error
            return
        for number in range(table.num_rows):
            yield from _values(table.slice(number, 1))
        return
    yield from values

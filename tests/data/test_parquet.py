"""Parquet: values as they are, class names for class numbers, damage named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.data import arrow
from chainft.data.arrow import named
from chainft.data.example import Example
from chainft.data.sources.parquet import ParquetConfig, ParquetSource
from chainft.errors import ConfigError, DataError, Problem, SecurityError

TAGS = {"_type": "ClassLabel", "names": ["O", "B-PER"]}


def source(**settings: Any) -> ParquetSource:
    return ParquetSource(ParquetConfig(name="parquet", **settings))


def write(folder: Path, table: pa.Table) -> str:
    file = folder / "train.parquet"
    pq.write_table(table, file)
    return str(file)


def test_rows_have_their_values_and_numbers(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", None], "tags": [["x", "y"], []], "inner": [{"n": 1}, {"n": 2}]})
    first, second = source().read(write(tmp_path, table))
    assert isinstance(first, Example)
    assert isinstance(second, Example)
    assert first.values == {"text": "a", "tags": ["x", "y"], "inner": {"n": 1}}
    assert second.values == {"text": None, "tags": [], "inner": {"n": 2}}
    assert second.where().endswith("train.parquet, row 1")


def test_rows_are_numbered_through_all_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "BATCH_ROWS", 3)
    rows = list(source().read(write(tmp_path, pa.table({"n": list(range(10))}))))
    assert [(row.values["n"], row.origin.line) for row in rows if isinstance(row, Example)] == [
        (number, number) for number in range(10)
    ]


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    file = write(tmp_path_factory.mktemp("parquet"), pa.table({"text": pa.array(texts, pa.string())}))
    assert [row.values["text"] for row in source().read(file) if isinstance(row, Example)] == texts


def test_dictionary_columns_are_plain_text(tmp_path: Path) -> None:
    labels = pa.array(["neg", "pos", "neg"]).dictionary_encode()
    rows = source().read(write(tmp_path, pa.table({"label": labels})))
    assert [row.values["label"] for row in rows if isinstance(row, Example)] == ["neg", "pos", "neg"]


def test_class_numbers_become_the_names_that_the_file_holds(tmp_path: Path) -> None:
    features = {"label": TAGS, "tags": {"_type": "List", "feature": TAGS}}
    info = json.dumps({"info": {"features": features}})
    table = pa.table({"label": [1, -1], "tags": [[0, 1], []]}).replace_schema_metadata({"huggingface": info})
    rows = [row.values for row in source().read(write(tmp_path, table)) if isinstance(row, Example)]
    assert rows == [{"label": "B-PER", "tags": ["O", "B-PER"]}, {"label": None, "tags": []}]


@pytest.mark.parametrize("info", [b"no json", b"[]", b'{"info": null}', b'{"info": {"features": 3}}'])
def test_strange_metadata_are_left_alone(tmp_path: Path, info: bytes) -> None:
    table = pa.table({"label": [1]}).replace_schema_metadata({"huggingface": info})
    assert [row.values for row in source().read(write(tmp_path, table)) if isinstance(row, Example)] == [{"label": 1}]


@pytest.mark.parametrize(
    ("value", "feature", "expected"),
    [
        ([[1], [0, 0]], {"_type": "List", "feature": {"_type": "List", "feature": TAGS}}, [["B-PER"], ["O", "O"]]),
        ({"a": 1, "b": 1}, {"a": TAGS, "b": {"_type": "Value"}}, {"a": "B-PER", "b": 1}),
        ([{"a": 0}], [{"a": TAGS}], [{"a": "O"}]),
        ({"a": [0, 1]}, {"_type": "Sequence", "feature": {"a": TAGS}}, {"a": ["O", "B-PER"]}),
        (7, TAGS, None),
        (None, TAGS, None),
        ("B-PER", TAGS, "B-PER"),
    ],
)
def test_class_names_are_found_wherever_they_stand(value: Any, feature: Any, expected: Any) -> None:
    assert named(value, feature) == expected


def test_an_undecodable_text_spoils_its_row_only(tmp_path: Path) -> None:
    """fault 9."""
    raw = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary())
    text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    file = write(tmp_path, pa.table({"text": text}))
    first, second, third = source().read(file)
    assert isinstance(first, Example)
    assert isinstance(second, Problem)
    assert isinstance(third, Example)
    assert second.where == f"{file}, row 1"
    assert (third.values["text"], third.origin.line) == ("fine", 2)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "hollow"])
def test_what_is_no_whole_parquet_is_a_data_error(tmp_path: Path, damage: str) -> None:
    """fault 9."""
    file = write(tmp_path, pa.table({"text": ["some text " * 100] * 50}))
    whole = Path(file).read_bytes()
    spoiled = {
        "empty": b"",
        "text": b"text,label\na,b\n" * 10,
        "truncated": whole[: len(whole) // 2],
        "hollow": whole[:4] + bytes(len(whole) - 504) + whole[-500:],
    }
    Path(file).write_bytes(spoiled[damage])
    with pytest.raises(DataError) as caught:
        list(source(train=file).read(file))
    assert (caught.value.problems[0].key, caught.value.problems[0].where) == ("data.train", file)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    file = write(tmp_path, table)
    for act in (source().column_names, lambda file: list(source().read(file))):
        with pytest.raises(DataError, match="two columns 'text'"):
            act(file)


def test_columns_are_named_and_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    file = write(tmp_path, pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}))
    assert source().column_names(file) == ("text", "label")
    assert list(source().read(file)) == []


def test_an_encoding_is_refused_because_it_has_no_effect() -> None:
    with pytest.raises(ConfigError, match="no effect"):
        source(encoding="latin-1")


def test_devices_are_refused() -> None:
    """fault 18."""
    with pytest.raises(SecurityError):
        list(source().read("/dev/zero"))

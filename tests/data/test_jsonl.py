"""JSON lines and JSON documents: rows with their lines; what is malformed has its place."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chainft.data.example import Example
from chainft.data.sources.jsonl import PLUGIN, JsonlConfig
from chainft.errors import DataError, Problem

TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from('\0\n\r\t"\\\u2028\u2029\x85\ufeffé🙂'), st.characters(exclude_categories=["Cs"])
    ),
    max_size=12,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), min_size=1, max_size=6)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(content: str | bytes, name: str = "data.jsonl") -> str:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(tmp_path / name)

    return write


def read(path: str, **options: Any) -> list[Example | Problem]:
    return list(PLUGIN(JsonlConfig(name="jsonl", train=path, **options)).read(path))


def values(path: str, **options: Any) -> list[dict[str, Any]]:
    found = read(path, **options)
    assert all(isinstance(row, Example) for row in found), found
    return [dict(row.values) for row in found if isinstance(row, Example)]


def lines(path: str) -> list[int]:
    return [row.origin.line for row in read(path) if isinstance(row, Example)]


@given(rows=ROWS, ascii_only=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
def test_what_was_written_is_read_back(write: Any, rows: list[dict[str, Any]], ascii_only: bool) -> None:
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\r\n" for row in rows)
    path = write(text)
    assert values(path) == rows
    assert lines(path) == list(range(1, len(rows) + 1))


@given(rows=ROWS, indent=st.none() | st.integers(0, 2))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_a_list_of_objects_is_read_back(write: Any, rows: list[dict[str, Any]], indent: int | None) -> None:
    assert values(write(json.dumps(rows, indent=indent), "data.json")) == rows


def test_rows_of_a_list_know_their_lines(write: Any) -> None:
    path = write('\n[\n  {"a": 1},\n\n  {"a":\n 2}, {"a": 3}\n]\n', "data.json")
    assert lines(path) == [3, 5, 6]


def test_blank_lines_compression_and_marks_do_not_matter(write: Any) -> None:
    """fault 9"""
    content = b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \n{"a": 2}'
    for name in ("data.jsonl", "data.jsonl.gz", "data.json"):
        path = write(content, name)
        assert values(path) == [{"a": 1}, {"a": 2}]
        assert lines(path) == [1, 4]


def test_a_list_inside_of_a_document_is_named_behind_colons(write: Any) -> None:
    path = write(
        json.dumps({"train": [["hi", "greeting"], ["bye", "parting"]], "deep": {"rows": [{"a": 1}]}}), "d.json"
    )
    assert values(f"{path}::train") == [{"0": "hi", "1": "greeting"}, {"0": "bye", "1": "parting"}]
    assert values(f"{path}::deep.rows") == [{"a": 1}]
    with pytest.raises(DataError, match="no list 'trian'") as caught:
        read(f"{path}::trian")
    assert "did you mean 'train'" in caught.value.render()


def test_the_file_of_such_a_list_is_found_before_anything_is_read(write: Any) -> None:
    path = write("{}", "d.json")
    source = PLUGIN(JsonlConfig(name="jsonl", train=f"{path}::train"))
    assert source.file_of(f"{path}::train") == str(path)
    assert source.file_of(str(path)) == str(path)


@pytest.mark.parametrize(
    ("row", "slug", "place"),
    [
        (b'{"a": 1', "not-json", ":2:8"),
        (b"{'a': 1}", "not-json", ":2:2"),
        (b'{"a": 1} {"a": 2}', "not-json", ":2:10"),
        (b"7", "not-an-object", ":2"),
        (b'"text"', "not-an-object", ":2"),
        (b'{"a": 1, "a": 2}', "bad-json", ":2"),
        (b'{"a": NaN}', "bad-json", ":2"),
        (b"[" * 100_000, "bad-json", ":2"),
        (b'{"a": ' + b"9" * 5000 + b"}", "bad-json", ":2"),
        (b'{"a": "\\ud800"}', "lone-surrogate", ":2"),
        (b'{"a": "caf\xe9"}', "wrong-encoding", ":2"),
        (b'{"a": "\0"}', "nul-byte", ":2:8"),
    ],
)
def test_a_malformed_line_has_its_place_and_leaves_the_others(write: Any, row: bytes, slug: str, place: str) -> None:
    """fault 9"""
    path = write(b'{"a": 0}\n' + row + b'\n{"a": 3}\n')
    first, problem, last = read(path)
    assert isinstance(first, Example) and isinstance(last, Example)
    assert isinstance(problem, Problem)
    assert (problem.slug, problem.where) == (slug, f"{path}{place}")


@pytest.mark.parametrize("content", ['[{"a": 1}, {"a": ]', '[{"a": 1} {"a": 2}]', '[{"a": 1}] more', '[{"a": 1},'])
def test_a_broken_list_is_no_single_row(write: Any, content: str) -> None:
    """fault 9: with on_error=skip the rest of the file would be lost in silence."""
    path = write(content, "data.json")
    with pytest.raises(DataError, match="not JSON") as caught:
        read(path)
    assert str(caught.value.problems[0].where).startswith(f"{path}:1:")

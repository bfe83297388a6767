"""CSV and TSV: RFC 4180 with the line of each row; what is malformed has its place."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chainft.data.example import Example
from chainft.data.sources.csv import PLUGIN, CsvConfig
from chainft.errors import ConfigError, DataError, Problem

CELLS = st.text(
    alphabet=st.one_of(
        st.sampled_from('",\n\r\t;\u2028\x85\u00a0\ufeffé🙂'), st.characters(exclude_categories=["Cs"])
    ),
    max_size=12,
).map(lambda text: text.replace("\0", ""))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(content: str | bytes, name: str = "data.csv") -> str:
        data = content.encode() if isinstance(content, str) else content
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return str(tmp_path / name)

    return write


def read(path: str, **options: Any) -> list[Example | Problem]:
    return list(PLUGIN(CsvConfig(name="csv", train=path, **options)).read(path))


def values(path: str, **options: Any) -> list[dict[str, Any]]:
    found = read(path, **options)
    assert all(isinstance(row, Example) for row in found), found
    return [dict(row.values) for row in found if isinstance(row, Example)]


def problems(path: str, **options: Any) -> list[Problem]:
    return [row for row in read(path, **options) if isinstance(row, Problem)]


def places(path: str, **options: Any) -> list[int]:
    return [row.origin.line for row in read(path, **options) if isinstance(row, Example)]


@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), delimiter=st.sampled_from(",;\t"))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_what_another_writer_wrote_is_read_back(write: Any, rows: list[tuple[str, str]], delimiter: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerows([("text", "label"), *rows])
    found = values(write(text.getvalue()), delimiter=delimiter)
    assert [(row["text"], row["label"]) for row in found] == rows


def test_rows_know_the_line_on_which_they_begin(write: Any) -> None:
    path = write('text,label\n\n"two\nlines, and ""quotes""",x\r\nplain,y\n')
    assert values(path) == [
        {"text": 'two\nlines, and "quotes"', "label": "x"},
        {"text": "plain", "label": "y"},
    ]
    assert places(path) == [3, 5]


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("data.tsv", {}, "a, b\tx"),
        ("data.TSV.gz", {}, "a, b\tx"),
        ("data.csv", {"delimiter": ";"}, "a, b;x"),
        ("data.csv", {"delimiter": "tab"}, "a, b\tx"),
        ("data.csv", {"delimiter": "\\t"}, "a, b\tx"),
    ],
)
def test_the_delimiter_follows_the_ending_or_the_setting(write: Any, name: str, options: Any, line: str) -> None:
    head = "text\tlabel" if "\t" in line else "text;label"
    assert values(write(f"{head}\n{line}\n", name), **options) == [{"text": "a, b", "label": "x"}]


def test_quotes_can_be_plain_text(write: Any) -> None:
    path = write('text\tlabel\n"unbalanced\tx\n5" disk\ty\n', "data.tsv")
    assert [row["text"] for row in values(path, quote=None)] == ['"unbalanced', '5" disk']


def test_a_file_without_header_has_given_names(write: Any) -> None:
    path = write("a,x\nb,y\n")
    assert values(path, header=False, field_names=("text", "label")) == [
        {"text": "a", "label": "x"},
        {"text": "b", "label": "y"},
    ]
    assert places(path, header=False, field_names=("text", "label")) == [1, 2]


def test_a_long_field_is_read(write: Any) -> None:
    long = "word " * 100_000
    assert values(write(f'text,label\n"{long}",x\n'))[0]["text"] == long


@pytest.mark.parametrize(
    ("row", "slug", "said"),
    [
        (b"only one", "ragged-row", "1 field"),
        (b"a,b,c", "ragged-row", "3 fields"),
        (b'"a"b,x', "bad-csv", "expected after"),
        (b"caf\xe9,x", "wrong-encoding", "byte 0xE9 at byte offset 21"),
        (b"a\0b,x", "nul-byte", "NUL"),
        (b"a\rb,x", "bad-csv", "new-line"),
    ],
)
def test_a_malformed_row_has_its_place_and_leaves_the_others(write: Any, row: bytes, slug: str, said: str) -> None:
    """fault 9"""
    path = write(b"text,label\nfine,x\n" + row + b"\nfine,y\n")
    (problem,) = problems(path)
    assert problem.slug == slug
    assert said in problem.message
    assert str(problem.where).startswith(f"{path}:3")
    assert places(path) == [2, 4]


def test_a_quote_that_is_never_closed_is_no_single_row(write: Any) -> None:
    """fault 9: with on_error=skip the rest of the file would be lost in silence."""
    path = write('text,label\nfine,x\n"open,y\nlost,x\nlost,y\n')
    with pytest.raises(DataError, match="never ends") as caught:
        read(path)
    assert caught.value.problems[0].where == f"{path}:3"
    assert "data.quote=null" in str(caught.value.problems[0].help)


def test_a_row_that_swallowed_others_tells_which(write: Any) -> None:
    path = write('text,label\n"open,y\nlost,x\n"z",y\nfine,x\n')
    (problem,) = problems(path)
    assert "lines 2 to 4" in problem.message


def test_a_mark_at_the_start_is_no_part_of_the_first_name(write: Any) -> None:
    """fault 9"""
    assert values(write(b"\xef\xbb\xbftext,label\r\na,x\r\n")) == [{"text": "a", "label": "x"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp1252", "gb18030"])
def test_other_encodings_are_read(write: Any, encoding: str) -> None:
    text = 'text,label\n"naïve\ncafé",x\n'
    assert values(write(text.encode(encoding)), encoding=encoding)[0]["text"] == "naïve\ncafé"


def test_a_header_with_a_name_twice_is_refused(write: Any) -> None:
    with pytest.raises(DataError, match="'text' twice"):
        read(write("text,text\na,b\n"))


@pytest.mark.parametrize(
    ("name", "header", "word"),
    [
        ("data.csv", "text;label", "'data.delimiter=;'"),
        ("data.csv", "text\tlabel", "data.delimiter=tab"),
        ("data.tsv", "text,label", "data.delimiter=,"),
    ],
)
def test_a_header_that_another_character_divides_names_it(write: Any, name: str, header: str, word: str) -> None:
    """fault 9"""
    path = write(f"{header}\na b{header[4]}x\n", name)
    with pytest.raises(DataError, match="the header is one column") as caught:
        read(path)
    problem = caught.value.problems[0]
    assert (problem.where, problem.key, problem.help) == (f"{path}:1", "data.delimiter", f"set {word}")


def test_a_delimiter_that_is_set_is_never_doubted(write: Any) -> None:
    assert values(write("a;b\nx\n"), delimiter=",") == [{"a;b": "x"}]


@pytest.mark.parametrize(
    "options",
    [
        {"delimiter": ",,"},
        {"delimiter": ""},
        {"quote": "\n"},
        {"delimiter": '"'},
        {"header": False},
        {"field_names": ("a",)},
        {"header": False, "field_names": ("a", "a")},
    ],
)
def test_settings_that_make_no_sense_are_refused(options: Any) -> None:
    with pytest.raises(ConfigError):
        CsvConfig(name="csv", train="x.csv", **options)

"""Columns of words: sentences with the line of each word; what is malformed has its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chainft.data.columns import find_column
from chainft.data.example import Example
from chainft.data.sources.conll import PLUGIN, ConllConfig
from chainft.errors import ConfigError, Problem
from chainft.tasks.base import Field

WORDS = st.text(
    alphabet=st.one_of(
        st.sampled_from("#-,\u00a0\u2028\u200b\x85é🙂"),
        st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]),
    ),
    min_size=1,
    max_size=6,
).filter(lambda word: word.strip() and word[0] != "\ufeff" and word != "-DOCSTART-")
SENTENCES = st.lists(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5), min_size=1, max_size=5)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def write(content: str | bytes, name: str = "data.conll") -> str:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return str(tmp_path / name)

    return write


def read(path: str, **options: Any) -> list[Example | Problem]:
    return list(PLUGIN(ConllConfig(name="conll", train=path, **options)).read(path))


def sentences(path: str, **options: Any) -> list[Example]:
    found = read(path, **options)
    assert all(isinstance(row, Example) for row in found), found
    return [row for row in found if isinstance(row, Example)]


def pairs(path: str, **options: Any) -> list[list[tuple[str, str]]]:
    return [list(zip(row.values["tokens"], row.values["tags"], strict=True)) for row in sentences(path, **options)]


@given(written=SENTENCES, separator=st.sampled_from(["\t", " "]), end=st.sampled_from(["\n", "\r\n"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_what_was_written_is_read_back(
    write: Any, written: list[list[tuple[str, str]]], separator: str, end: str
) -> None:
    """fault 12: no-break spaces, line separators and zero-width characters are parts of words."""
    blocks = ["".join(f"{word}{separator}{tag}{end}" for word, tag in sentence) for sentence in written]
    assert pairs(write(end.join(blocks))) == written


def test_each_word_knows_its_line(write: Any) -> None:
    path = write("-DOCSTART- -X- O\n\nAda B-PER\nleft O\n\n\nOslo B-LOC\n")
    first, second = sentences(path)
    assert (first.where(), first.where(1), second.where()) == (f"{path}:3", f"{path}:4", f"{path}:7")


@pytest.mark.parametrize("gap", ["", "\t", "  ", "\t\t ", "\r"])
def test_a_line_of_blanks_ends_a_sentence(write: Any, gap: str) -> None:
    """WNUT-17 has lines with a single tab."""
    assert pairs(write(f"Ada\tB-PER\n{gap}\nOslo\tB-LOC")) == [[("Ada", "B-PER")], [("Oslo", "B-LOC")]]


def test_columns_have_their_numbers_from_both_ends(write: Any) -> None:
    (row,) = sentences(write("Ada NNP B-NP B-PER\nleft VBD B-VP O\n"))
    assert row.values["0"] == row.values["-4"] == row.values["tokens"] == ["Ada", "left"]
    assert row.values["1"] == row.values["-3"] == ["NNP", "VBD"]
    assert row.values["3"] == row.values["-1"] == row.values["tags"] == ["B-PER", "O"]


def test_sentences_after_a_document_start_have_the_number_of_their_document(write: Any) -> None:
    rows = sentences(write("Emil B-PER\n\n-DOCSTART- O\n\nAda B-PER\n\nleft O\n\n-DOCSTART- O\n\nOslo B-LOC\n"))
    assert [row.values.get("document") for row in rows] == [None, "1", "1", "2"]


def test_documents_and_comments_are_left_out(write: Any) -> None:
    text = "-DOCSTART- O\nAda B-PER\n-DOCSTART- O\n# id 7\n# O\nOslo B-LOC\n"
    assert pairs(write(text), comment_prefix="# id")[1] == [("#", "O"), ("Oslo", "B-LOC")]
    (problem,) = read(write("# id 7\nOslo B-LOC\n"))
    assert isinstance(problem, Problem)


@pytest.mark.parametrize("separator", [",", "tab", "\\t", "||"])
def test_any_separator(write: Any, separator: str) -> None:
    written = {"tab": "\t", "\\t": "\t"}.get(separator, separator)
    assert pairs(write(f"New York{written}B-LOC\n"), separator=separator) == [[("New York", "B-LOC")]]


def test_the_first_of_several_tags_is_taken(write: Any) -> None:
    path = write("a,b\tB-PER,B-LOC\nx\tO\n")
    assert pairs(path, tag_separator=",") == [[("a,b", "B-PER"), ("x", "O")]]
    (row,) = sentences(write("Ada B-PER,B-LOC x\n"), tag_separator=",", columns={"tags": 1})
    assert (row.values["1"], row.values["2"]) == (["B-PER"], ["x"])


@pytest.mark.parametrize(
    ("line", "slug", "said"),
    [
        (b"lonely", "ragged-row", "1 column, line 1 has 2"),
        (b"a\tb\tc", "ragged-row", "3 columns"),
        (b"\tO", "empty-cell", "first column is empty"),
        (b"a\t", "empty-cell", "last column is empty"),
        (b"caf\xe9\tO", "wrong-encoding", "byte 0xE9 at byte offset 21"),
        (b"a\0b\tO", "nul-byte", "NUL"),
        (b"a\rb\tO", "carriage-return", "carriage return"),
    ],
)
def test_a_malformed_line_has_its_place_and_spoils_its_sentence_only(
    write: Any, line: bytes, slug: str, said: str
) -> None:
    """fault 9"""
    path = write(b"Ada\tB-PER\n\nfine\tO\n" + line + b"\nfine\tO\n\nOslo\tB-LOC\n")
    first, problem, last = read(path)
    assert isinstance(first, Example) and isinstance(last, Example)
    assert isinstance(problem, Problem)
    assert problem.slug == slug
    assert said in problem.message
    assert str(problem.where).startswith(f"{path}:4")


@pytest.mark.parametrize("name", ["separator", "comment_prefix", "tag_separator"])
def test_an_empty_setting_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        ConllConfig(name="conll", train="x", **{name: ""})  # type: ignore[arg-type]


@pytest.mark.parametrize(("number", "found"), [("1", "1"), ("-1", "-1"), ("5", None), ("-3", None)])
def test_a_number_beyond_the_columns_is_no_column(write: Any, number: str, found: str | None) -> None:
    """fault 9: `data.columns.tags=5` in a file of two columns once took the words for tags."""
    (row,) = sentences(write("anna\tB-PER\nleft\tO\n"))
    assert find_column(Field("tags", kind="tags"), {"tags": number}, row.values) == found

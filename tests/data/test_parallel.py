"""Parallel texts: aligned lines of two files, and what is told where they do not belong together."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from chainft.config.parse import parse
from chainft.data.example import Example
from chainft.data.sources.parallel import ParallelConfig, ParallelSource
from chainft.errors import ConfigError, DataError, Problem


def write(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return str(path)


def source_of(source: str, target: str, **settings: Any) -> ParallelSource:
    return ParallelSource(
        parse(ParallelConfig, {"name": "parallel", "train": source, "train_target": target, **settings})
    )


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_lines_are_paired_and_blank_pairs_left_out(tmp_path: Path, ending: str) -> None:
    one = write(tmp_path, f"a.en{ending}", "A dog. \n\nTwo cats.\n")
    other = write(tmp_path, f"a.de{ending}", "Ein Hund.\r\n \nZwei Katzen.")
    rows = list(source_of(one, other).read(one))
    assert [row.values for row in rows if isinstance(row, Example)] == [
        {"source": "A dog.", "target": "Ein Hund."},
        {"source": "Two cats.", "target": "Zwei Katzen."},
    ]
    assert [row.where() for row in rows if isinstance(row, Example)] == [f"{one}:1", f"{one}:3"]
    assert source_of(one, other).column_names(one) == ("source", "target")


@pytest.mark.parametrize("longer", ["source", "target"])
def test_unequal_numbers_of_lines_stop_at_the_first_line_too_many(tmp_path: Path, longer: str) -> None:
    short, long = write(tmp_path, "short", "a\nb\n"), write(tmp_path, "long", "a\nb\nc\nd\n")
    one, other = (long, short) if longer == "source" else (short, long)
    with pytest.raises(DataError, match="ends after line 2") as caught:
        list(source_of(one, other).read(one))
    assert caught.value.problems[0].where == f"{long}:3"
    assert caught.value.problems[0].key == "data.train"


def test_a_line_without_its_other_side_is_a_problem_at_the_blank_line(tmp_path: Path) -> None:
    one, other = write(tmp_path, "a.en", "a\nb\nc\n"), write(tmp_path, "a.de", "x\n\nz\n")
    rows = list(source_of(one, other).read(one))
    assert [row.where for row in rows if isinstance(row, Problem)] == [f"{other}:2"]
    assert len(rows) == 3


def test_a_line_that_cannot_be_decoded_is_a_problem_of_its_file(tmp_path: Path) -> None:
    one = write(tmp_path, "a.en", "a\n")
    other = tmp_path / "a.de"
    other.write_bytes(b"\xff\n")
    (problem,) = source_of(one, str(other)).read(one)
    assert isinstance(problem, Problem)
    assert problem.where == f"{other}:1"


def test_a_missing_target_file_is_told_at_its_setting(tmp_path: Path) -> None:
    one = write(tmp_path, "a.en", "a\n")
    with pytest.raises(DataError) as caught:
        list(source_of(one, str(tmp_path / "a.de")).read(one))
    assert caught.value.problems[0].key == "data.train_target"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"train": "a.en"}, "data.train_target"),
        ({"train_target": "a.de"}, "data.train"),
        ({"train": ["a.en", "b.en"], "train_target": ["a.de"]}, "data.train_target"),
        ({"train": "a.en", "train_target": "a.de", "test": "b.en"}, "data.test_target"),
        ({"train": "a.en", "train_target": "a.de", "test": "a.en", "test_target": "a.fr"}, "data.train"),
    ],
)
def test_files_without_their_other_side_are_refused(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(ParallelConfig, {"name": "parallel", **settings})
    assert caught.value.problems[0].key == key

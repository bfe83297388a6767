"""Tags of splits held against the scheme of train."""

from __future__ import annotations

import pytest

from chainft.data.example import Example, Origin, Split
from chainft.errors import DataError, Problem
from chainft.text.tagged import check_scheme, detect_scheme

TRAIN = "B-PER I-PER O B-LOC"
Data = dict[Split, list[Example]]


def rows(split: str, *sentences: str) -> list[Example]:
    """One sentence a line, a word a tag."""
    values = [{"tokens": tags.split(), "tags": tags.split()} for tags in sentences]
    return [Example(value, Origin(f"{split}.jsonl", line + 1)) for line, value in enumerate(values)]


def problems(data: Data) -> list[Problem]:
    with pytest.raises(DataError) as caught:
        check_scheme(data, detect_scheme(data))
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("scheme", "tags"),
    [("iob1", "I-PER I-PER O I-LOC"), ("bioes", "B-PER E-PER O S-LOC"), ("bilou", "B-PER L-PER O U-LOC")],
)
def test_split_in_another_scheme_is_one_problem(scheme: str, tags: str) -> None:
    data: Data = {"train": rows("train", *[TRAIN] * 9), "test": rows("test", "O O", *[tags] * 9)}
    [problem] = problems(data)
    assert problem.message.startswith(f"test is in {scheme} (")
    assert "but train is in iob2 (18 entities start with B-, 0 with I-)" in problem.message
    assert problem.key == "data.test"
    assert (problem.where or "").startswith("test.jsonl:2, item ")
    assert "write its tags in iob2 too" in (problem.help or "")
    assert "chainft evaluate RUN_FOLDER data.test=FILE" in (problem.help or "")


def test_each_split_in_another_scheme_is_named() -> None:
    other = "B-PER E-PER O S-LOC"
    data: Data = {"train": rows("train", TRAIN), "validation": rows("dev", other), "test": rows("test", other)}
    assert [problem.key for problem in problems(data)] == ["data.validation", "data.test"]


def test_single_mistakes_are_told_one_by_one() -> None:
    data: Data = {"train": rows("train", TRAIN), "test": rows("test", TRAIN, TRAIN, "O I-PER O")}
    assert [problem.slug for problem in problems(data)] == ["illegal-tag", "scheme-evidence"]

"""A scheme that is set, and splits in another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chainft.data.load import load_splits
from chainft.data.sources.jsonl import PLUGIN as JSONL
from chainft.errors import DataError, Problem
from chainft.tasks.ner import Ner, NerConfig

BIOES = "B-PER E-PER O S-LOC"


@pytest.mark.parametrize(
    ("scheme", "tags"), [("iob2", "I-PER I-PER O I-LOC"), ("iob2", BIOES), ("bioes", "B-PER I-PER O B-LOC")]
)
def test_split_in_another_scheme_than_the_set_one_is_one_problem(scheme: Any, tags: str, tmp_path: Path) -> None:
    legal = {"iob2": "B-PER I-PER O B-LOC", "bioes": BIOES}[scheme]
    found = misread(scheme, tmp_path, train=[legal] * 30, test=["O O O O", *[tags] * 30])
    assert [problem.slug for problem in found] == ["other-scheme"]
    assert found[0].message.startswith("test is in ") and f"but task.scheme = {scheme}" in found[0].message
    assert found[0].key == "data.test" and ":2" in str(found[0].where)
    assert f"write its tags in {scheme}" in str(found[0].help)


def test_single_mistakes_in_a_set_scheme_are_told_one_by_one(tmp_path: Path) -> None:
    found = misread("iob2", tmp_path, train=["B-PER I-PER O B-LOC"] * 9 + ["O I-PER O O"], test=["O O O O"])
    assert [problem.slug for problem in found] == ["illegal-tag"]


def test_rows_that_are_wrong_otherwise_are_told_beside_the_scheme(tmp_path: Path) -> None:
    assert [one.slug for one in misread("iob2", tmp_path, train=[BIOES, "{"], test=["O"])] == [
        "other-scheme",
        "not-json",
    ]
    assert [one.slug for one in misread("iob2", tmp_path, train=[BIOES, "O B-"], test=["O"])][-1] == "illegal-tag"


def misread(scheme: Any, folder: Path, **splits: list[str]) -> list[Problem]:
    """What loading says of these tags; a line that is none is written as it is."""
    for split, lines in splits.items():
        rows = [{"tokens": tags.split(), "tags": tags.split()} if tags != "{" else tags for tags in lines]
        text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    config = JSONL.config_class(name="jsonl", **{split: str(folder / f"{split}.jsonl") for split in splits})
    with pytest.raises(DataError) as caught:
        load_splits(config, Ner(NerConfig(scheme=scheme)))
    return list(caught.value.problems)

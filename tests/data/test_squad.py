"""SQuAD JSON: rows with their article, paragraph and question, plain, packed and zipped."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chainft.data.example import Example
from chainft.data.sources.squad import PLUGIN, SquadConfig
from chainft.errors import DataError, Problem, SecurityError

Write = Callable[..., str]
QUESTIONS: list[dict[str, Any]] = [
    {"id": "q1", "question": "Where?", "answers": [{"text": "Oslo", "answer_start": 8}]},
    {"id": "q2", "question": "Who?", "answers": [], "is_impossible": True, "plausible_answers": []},
]
CONTEXT = "Anna in Oslo."


def document(*questions: Any, **paragraph: Any) -> dict[str, Any]:
    one = {"context": CONTEXT, "qas": list(questions or QUESTIONS), **paragraph}
    return {"version": "v2.0", "data": [{"title": "Towns", "paragraphs": [one]}]}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: Any, name: str = "dev.json", indent: int | None = None) -> str:
        text = content if isinstance(content, str) else json.dumps(content, indent=indent)
        path = tmp_path / name
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        elif name.endswith(".zip"):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("__MACOSX/dev.json", "junk")
                archive.writestr("../dev.json", text)
        else:
            path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def read(path: str, **options: Any) -> list[Example | Problem]:
    return list(PLUGIN(SquadConfig(name="squad", train=path, **options)).read(path))


def only_problem(path: str) -> Problem:
    (problem,) = [row for row in read(path) if isinstance(row, Problem)]
    return problem


@pytest.mark.parametrize("name", ["dev.json", "dev.json.gz", "dev.zip"])
def test_rows_are_questions_with_their_context(write: Write, name: str) -> None:
    """fault 18: a name in an archive that leads elsewhere is of no consequence."""
    rows = read(write(document(), name))
    assert [row.values for row in rows if isinstance(row, Example)] == [
        {"context": CONTEXT, "title": "Towns", "id": one["id"], "question": one["question"], "answers": one["answers"]}
        for one in QUESTIONS
    ]


def test_place_of_a_row_is_line_article_paragraph_and_question(write: Write) -> None:
    path = write(document(), indent=1)
    rows = [row for row in read(path) if isinstance(row, Example)]
    text = Path(path).read_text(encoding="utf-8").splitlines()
    for row, id in zip(rows, ("q1", "q2"), strict=True):
        line = next(number for number, one in enumerate(text, 1) if f'"id": "{id}"' in one)
        assert row.where() == f"{path}:{line}, article 'Towns', paragraph 1, question '{id}'"


def test_text_that_looks_like_an_id_moves_no_line(write: Write) -> None:
    path = write(document({**QUESTIONS[0], "question": 'is "id": "q1" here?'}), indent=1)
    (row,) = read(path)
    assert isinstance(row, Example)
    assert '"id"' in Path(path).read_text(encoding="utf-8").splitlines()[row.origin.line - 1]


def test_questions_that_share_an_id_keep_their_own_lines(write: Write) -> None:
    rows = read(write(document(QUESTIONS[0], QUESTIONS[0]), indent=1))
    first, second = (row.origin.line for row in rows if isinstance(row, Example))
    assert 0 < first < second


def test_question_without_id_is_told_by_its_number(write: Write) -> None:
    (row,) = read(write(document({"question": "Where?", "answers": []}), indent=1))
    assert isinstance(row, Example)
    assert row.where().endswith("dev.json, article 'Towns', paragraph 1, question 1")


def test_impossible_question_may_leave_answers_away(write: Write) -> None:
    (row,) = read(write(document({"id": "q", "question": "Who?", "is_impossible": True})))
    assert isinstance(row, Example) and row.values["answers"] == []


def test_test_file_without_answers_is_read(write: Write) -> None:
    (row,) = read(write(document({"id": "q", "question": "Who?", "is_impossible": False})))
    assert isinstance(row, Example) and "answers" not in row.values


@pytest.mark.parametrize(
    ("content", "slug", "place"),
    [
        (document({**QUESTIONS[0], "is_impossible": True}), "contradiction", "question 'q1'"),
        (document({**QUESTIONS[1], "is_impossible": False}), "contradiction", "question 'q2'"),
        (document(7), "not-squad", "paragraph 1, question 1"),
        (document({"id": "q"}), "not-squad", "paragraph 1, question 1"),
        (document(context=None), "not-squad", "article 'Towns', paragraph 1"),
        (document(qas="none"), "not-squad", "article 'Towns', paragraph 1"),
        ({"data": [7]}, "not-squad", "article 1"),
        ({"data": [{"title": "Towns"}]}, "not-squad", "article 1"),
        (document({**QUESTIONS[0], "question": "\ud800"}), "lone-surrogate", "question 'q1'"),
    ],
)
def test_malformed_part_is_one_problem_with_its_place(write: Write, content: Any, slug: str, place: str) -> None:
    """fault 9, fault 14"""
    problem = only_problem(write(content))
    assert problem.slug == slug
    assert str(problem.where).endswith(place)


@pytest.mark.parametrize(
    ("content", "slug", "place"),
    [
        ('{"data": [}', "not-json", "dev.json:1:11"),
        ('{"data": [NaN]}', "bad-json", "dev.json"),
        ("[" * 100_000, "bad-json", "dev.json"),
        ("[1]", "not-squad", "dev.json"),
        ('{"rows": []}', "not-squad", "dev.json"),
        ('{"data": "x"}', "not-squad", "dev.json"),
    ],
)
def test_what_is_no_squad_file_is_refused_as_a_whole(write: Write, content: str, slug: str, place: str) -> None:
    """fault 9"""
    with pytest.raises(DataError) as caught:
        read(write(content))
    assert caught.value.problems[0].slug == slug
    assert str(caught.value.problems[0].where).endswith(place)


def test_archive_must_hold_one_json(tmp_path: Path) -> None:
    for names in ([], ["a.txt"], ["a.json", "b.json"]):
        with zipfile.ZipFile(tmp_path / "dev.zip", "w") as archive:
            for name in names:
                archive.writestr(name, "{}")
        with pytest.raises(DataError, match="one is wanted") as caught:
            read(str(tmp_path / "dev.zip"))
        assert all(name in str(caught.value) for name in names)


def test_damaged_archive_is_an_error(write: Write, tmp_path: Path) -> None:
    """fault 38"""
    whole = Path(write(document(), "dev.zip")).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04 and nothing"):
        (tmp_path / "dev.zip").write_bytes(content)
        with pytest.raises(DataError) as caught:
            read(str(tmp_path / "dev.zip"))
        assert caught.value.problems[0].slug == "damaged-zip"


def test_archive_that_grows_without_end_is_refused(write: Write) -> None:
    """fault 18"""
    with pytest.raises(SecurityError, match="200 times"):
        read(write((" " * 2**20 + "\n") * 80, "dev.zip"))

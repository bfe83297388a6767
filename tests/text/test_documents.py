"""Looking things up: BM25 by hand, passages with their lines, and the same answer every time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.errors import ConfigError
from chainft.text.bm25 import BM25
from chainft.text.documents import Documents, with_passages

WORDS = st.lists(st.sampled_from(["red", "blue", "green", "sky"]), max_size=6).map(" ".join)


def test_bm25_has_the_values_of_the_formula() -> None:
    """Three documents of 3, 1 and 2 words (mean 2); `red` is in two, twice in the first; k1 = 1.2, b = 0.75."""
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    first = idf * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 3 / 2))
    third = idf * 1 * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / 2))
    found = BM25(["Red red sky", "blue", "green, RED!"]).search("red", 5)
    assert [number for number, _ in found] == [0, 2]
    assert [score for _, score in found] == pytest.approx([first, third])
    assert first == pytest.approx(0.56658, abs=1e-5)


@given(st.lists(WORDS, min_size=1, max_size=6), WORDS)
def test_a_hit_shares_a_word_and_comes_by_falling_score(documents: list[str], question: str) -> None:
    found = BM25(documents).search(question, 10)
    assert {number for number, _ in found} == {
        number for number, text in enumerate(documents) if set(text.split()) & set(question.split())
    }
    assert [(-score, number) for number, score in found] == sorted((-score, number) for number, score in found)


def test_passages_are_cut_at_paragraphs_and_know_their_lines(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# Hours\n\nWe open at nine.\nAlways.\n\n\n# Prices\n\nA book costs ten.\n")
    (tmp_path / "a.txt").write_text("\n".join(["word " * 50, "", "more " * 50, "", "end"]))
    (tmp_path / "c.csv").write_text("nine")
    places = [one.place for one in Documents(tmp_path, key="task.documents").passages]
    assert places == ["a.txt:1-1", "a.txt:3-5", "b.md:1-4", "b.md:7-9"]


def test_what_is_found_is_put_before_the_question_and_nothing_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "hours.md").write_text("We open at nine.\n")
    documents = Documents(tmp_path, key="task.documents")
    assert documents.find("Prices?", 3) == []
    assert with_passages("Prices?", []) == "Prices?"
    shown = with_passages("When do you open?", documents.find("When do you open?", 3))
    assert shown.index("[1] hours.md:1-1\nWe open at nine.") < shown.index("Question: When do you open?")


@pytest.mark.parametrize("name", ["", "absent", "file"])
def test_a_folder_without_texts_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("no ending")
    with pytest.raises(ConfigError) as caught:
        Documents(tmp_path / name, key="task.documents")
    assert caught.value.problems[0].key == "task.documents"

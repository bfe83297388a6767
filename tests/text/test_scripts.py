"""Scripts without spaces: what is one, and where words end."""

from __future__ import annotations

import pytest

from chainft.text.scripts import is_spaceless, joins, units, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("黑豹队的防守只丢了 308分，在联赛中排名第六", True),
        ("NBA、NFL 和 MLB 是 American 联盟", True),
        ("ノーベル賞を受賞した。", True),
        ("ภาษาไทยเขียนติดกัน", True),
        ("한국어는 띄어쓰기를 한다", False),
        ("Der Begriff 茶 (Tee) kommt aus China.", False),
        ("Привет, мир", False),
        ("308, 24!", False),
        ("", False),
    ],
)
def test_script_of_a_text(text: str, expected: bool) -> None:
    assert is_spaceless(text) is expected


def test_marks_stay_with_their_character() -> None:
    assert units("ที่นี่") == ["ที่", "นี่"]
    assert units("cafe\u0301 au") == ["cafe\u0301", "au"]


@pytest.mark.parametrize("text", ["", "  ", "Oslo", "于1897年", "a\u3000b"])
def test_units_lose_nothing_but_blanks(text: str) -> None:
    assert "".join(units(text)) == "".join(text.split())


def test_words_have_their_places() -> None:
    text = "Anna's 1960s, 奥斯陆!"
    assert [text[start:end] for start, end in words(text)] == ["Anna", "s", "1960s", "奥", "斯", "陆"]


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("ab", [1]),
        ("a b", []),
        ("$5m", [2]),
        ("e\u0301a", [1, 2]),
        ("é\u0323x", [1, 2]),
        ("奥b", []),
        ("서울에서", []),
        ("3)", []),
        ("A-b", []),
        ("ที่", [1, 2]),
    ],
)
def test_places_inside_of_words(text: str, inside: list[int]) -> None:
    assert [place for place in range(len(text) + 1) if joins(text, place)] == inside

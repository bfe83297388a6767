"""Sentences by rule, and languages by code."""

from __future__ import annotations

import pytest

from chainft.text.languages import NAMES, base_code, model_code, name_of
from chainft.text.sentences import sentences


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        ("One.", ["One."]),
        ("One. Two! Three? four", ["One.", "Two!", "Three? four"]),
        ("It is 3.5 m. Dr. Who came.", ["It is 3.5 m.", "Dr. Who came."]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("first line\nsecond line", ["first line", "second line"]),
        ("猫が寝る。犬が走る！", ["猫が寝る。", "犬が走る！"]),
        ("Es gilt z.B. Regel 2. Über alles!", ["Es gilt z.B. Regel 2.", "Über alles!"]),
        ("By J. R. Smith et al. Results follow.", ["By J. R. Smith et al. Results follow."]),
    ],
)
def test_sentences(text: str, wanted: list[str]) -> None:
    assert sentences(text) == wanted


@pytest.mark.parametrize(
    ("code", "known", "wanted"),
    [
        ("en", ["en_XX", "de_DE"], "en_XX"),
        ("en_XX", ["en_XX"], "en_XX"),
        ("de", ["eng_Latn", "deu_Latn"], "deu_Latn"),
        ("deu_Latn", ["en", "de"], "de"),
        ("pt-BR", ["pt_XX"], "pt_XX"),
        ("xx", ["en_XX"], None),
    ],
)
def test_codes_of_models_are_found(code: str, known: list[str], wanted: str | None) -> None:
    assert model_code(code, known) == wanted


def test_every_language_has_a_name_and_a_code_of_its_own() -> None:
    assert name_of("deu_Latn") == "German"
    assert all(len(code) == 2 and name[0].isupper() for code, name in NAMES.items())
    assert base_code("nob_Latn") in ("nb", "no")

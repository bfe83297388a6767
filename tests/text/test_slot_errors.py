"""Meanings are read strictly, and slots are found in texts by their values and phrasings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.data.sources.csv import CsvConfig, CsvSource
from chainft.metrics.slots import SlotErrors
from chainft.text.meanings import MeaningError, read_meaning, show
from chainft.text.phrasings import PHRASINGS
from chainft.text.slot_errors import Lexicon, normal

LEXICON = Lexicon(PHRASINGS)
NAMES = st.text(
    st.characters(blacklist_characters="[],", blacklist_categories=("Cs", "Cc", "Zl", "Zp", "Zs")), min_size=1
)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ("name[The Eagle], customer rating[5 out of 5]", (("name", "The Eagle"), ("customer rating", "5 out of 5"))),
        (" name[ A, B ] ,near[]", (("name", "A, B"), ("near", ""))),
        (
            {"stars": 5, "open": False, "near": ["A", "B"], "gone": None},
            (("stars", "5"), ("open", "no"), ("near", "A"), ("near", "B")),
        ),
        (["name[A]", {"food": "French"}], (("name", "A"), ("food", "French"))),
    ],
)
def test_meanings_are_text_objects_or_lists(value: Any, meaning: Any) -> None:
    assert read_meaning(value) == meaning


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("name[A", "at character 0"),
        ("name[A] food[B]", "a comma is wanted at character 8"),
        ("name[A], ", "at character 8"),
        ("name[A], B", "at character 8"),
        ("name[A[b]]", "at character 0"),
        ("[A]", "at character 0"),
        ("", "no slot"),
        ({}, "no slot"),
        ({"": "A"}, "no name"),
        ({"a": {"b": 1}}, "the value of 'a'"),
        (3, "not 3"),
    ],
)
def test_broken_meanings_are_told_by_their_place(value: Any, words: str) -> None:
    with pytest.raises(MeaningError, match=words):
        read_meaning(value)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=4))
def test_a_meaning_that_is_shown_reads_the_same(pairs: list[tuple[str, str]]) -> None:
    assert read_meaning(show(tuple(pairs))) == tuple(pairs)


@pytest.mark.parametrize(
    ("meaning", "text", "missing", "redundant", "unjudged"),
    [
        ("name[The Eagle], food[French]", "The Eagle serves French food.", 0, 0, 0),
        ("name[Café Rouge]", "CAFE   ROUGE!", 0, 0, 0),
        ("name[The Eagle], near[Ranch]", "The Eagles near Ranches", 2, 0, 0),
        ("name[Cocum], food[Indian]", "Cocum is near Raja Indian Cuisine.", 0, 0, 0),
        ("name[Cocum], food[Indian], near[Raja Indian Cuisine]", "Cocum is near Raja Indian Cuisine.", 1, 0, 0),
        ("familyFriendly[yes]", "It is child-friendly.", 0, 0, 0),
        ("familyFriendly[yes]", "It isn't child friendly.", 1, 1, 0),
        ("familyFriendly[no]", "It is not a family-friendly place.", 0, 0, 0),
        ("familyFriendly[no]", "It is for adults only.", 0, 0, 0),
        ("priceRange[cheap]", "It costs less than £20.", 0, 0, 0),
        ("priceRange[cheap]", "It is expensive.", 1, 1, 0),
        ("customer rating[average]", "Prices are low. The customer rating is average.", 0, 1, 0),
        ("customer rating[1 out of 5]", "It has 1 out of 5 stars.", 0, 0, 0),
        ("name[Cocum]", "Cocum serves Italian and Chinese food by the river.", 0, 2, 0),
        ("eatType[coffee shop], familyFriendly[yes]", "a family coffee shop", 0, 0, 0),
        ("hasGarden[yes], name[Cocum], odd[---]", "Cocum.", 0, 0, 2),
    ],
)
def test_slots_are_judged(meaning: str, text: str, missing: int, redundant: int, unjudged: int) -> None:
    found = LEXICON.judge(read_meaning(meaning), text)
    assert (len(found.missing), len(found.redundant), len(found.unjudged)) == (missing, redundant, unjudged), found


@given(
    st.lists(st.sampled_from(sorted(PHRASINGS)), min_size=1, max_size=4, unique_by=lambda key: key.partition("[")[0])
)
def test_a_text_of_phrasings_says_its_slots_and_no_other(keys: list[str]) -> None:
    text = ". ".join(PHRASINGS[key][0] for key in keys) + "."
    found = LEXICON.judge(read_meaning(", ".join(keys)), text)
    assert (found.errors, found.said) == (0, tuple(keys))


def test_a_phrasing_of_the_user_is_used() -> None:
    lexicon = Lexicon({"hasGarden[yes]": ["with a ... garden"], "hasGarden[no]": ["without garden"]})
    meaning = read_meaning("has garden[yes]")
    assert lexicon.judge(meaning, "A house with a big old garden.").errors == 0
    assert lexicon.judge(meaning, "A house with a roof. No garden.").missing == ("has garden[yes]",)


def test_words_are_compared_in_normal_form() -> None:
    assert normal("Café Rouge isn't child-friendly (£20-25).") == "cafe rouge isn t child friendly £ 20 25"


def test_the_rate_is_missing_and_redundant_slots_by_wanted_ones() -> None:
    """Wen et al., 2015: (p + q) / N; here p = 1, q = 1, N = 4; the slot that cannot be judged is not in N."""
    metric = SlotErrors()
    for meaning, text in (
        ("name[A1], food[French]", "A1 is French."),
        ("name[B2], food[Indian], hasGarden[yes]", "B2 is Chinese."),
    ):
        metric.update({"meaning": read_meaning(meaning), "references": []}, text)
    scores = metric.compute()
    assert scores.values == {"slot_error_rate": 0.5, "text_error_rate": 0.5}
    assert scores.tables[0].rows == (
        ("food", 2, 1, 1, 0, 1.0),
        ("hasGarden", 0, 0, 0, 1, None),
        ("name", 2, 0, 0, 0, 0.0),
    )
    assert SlotErrors().compute().values["slot_error_rate"] == 0.0


@pytest.mark.slow
def test_the_table_agrees_with_people_on_e2e(shared_data: Path) -> None:
    """Texts that people wrote and that E2E's authors cleaned: what is left are true errors and unusual words."""
    file = shared_data / "controlled_generation" / "e2e_clean" / "test-fixed.csv"
    if not file.is_file():
        pytest.skip("E2E is absent from the shared data")
    metric = SlotErrors()
    for number, row in enumerate(CsvSource(CsvConfig(name="csv")).read(str(file))):
        if number % 10 == 0:
            assert not isinstance(row, Exception)
            meaning = read_meaning(row.values["mr"])  # type: ignore[union-attr]
            metric.update({"meaning": meaning, "references": []}, row.values["ref"])  # type: ignore[union-attr]
    assert metric.compute().values["slot_error_rate"] < 0.05

"""Entity scores equal seqeval's."""

from __future__ import annotations

import warnings
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from chainft.metrics.entities import Entities
from chainft.tasks.base import Scores

TAGS = ["O", "O", *(f"{prefix}-{kind}" for prefix, kind in product("BI", ["LOC", "PER", "work-of-art"]))]
KEYS = {
    "entity_precision",
    "entity_recall",
    "entity_f1",
    "entity_f1_macro",
    "entity_precision_strict",
    "entity_recall_strict",
    "entity_f1_strict",
}
Pair = tuple[list[str], list[str]]


@st.composite
def sentences(draw: st.DrawFn) -> list[Pair]:
    """Gold and predicted tags of some sentences: any sequence, legal or not."""
    found: list[Pair] = []
    for length in draw(st.lists(st.integers(0, 8), min_size=1, max_size=6)):
        tags = st.lists(st.sampled_from(TAGS), min_size=length, max_size=length)
        gold = draw(tags)
        found.append((gold, draw(st.one_of(st.just(gold), tags))))
    return found


def scored(pairs: list[Pair]) -> Scores:
    metric = Entities()
    for gold, predicted in pairs:
        metric.update(gold, predicted)
    return metric.compute()


@settings(deadline=None, max_examples=80)
@given(sentences())
def test_counting_by_sentence_equals_seqeval_over_all(pairs: list[Pair]) -> None:
    scores = scored(pairs)
    if not scores.tables[0].rows[:-3]:
        return  # seqeval fails where there is no entity at all.
    report = seqeval_report(pairs)
    for name, *cells in scores.tables[0].rows:
        there = report[str(name).replace("average", "avg")]
        expected = [there[key] for key in ("precision", "recall", "f1-score", "support")]
        assert cells == pytest.approx(expected, abs=1e-12), name
    assert scores.values["entity_f1"] == pytest.approx(report["micro avg"]["f1-score"])
    assert scores.values["entity_f1_macro"] == pytest.approx(report["macro avg"]["f1-score"])


@settings(deadline=None, max_examples=80)
@given(sentences())
def test_strict_scores_equal_seqevals_strict_mode(pairs: list[Pair]) -> None:
    try:
        report = seqeval_report(pairs, mode="strict", scheme=IOB2)["micro avg"]
    except (ValueError, IndexError):
        return  # seqeval fails where there is no strict entity at all.
    values = scored(pairs).values
    assert values["entity_precision_strict"] == pytest.approx(report["precision"])
    assert values["entity_recall_strict"] == pytest.approx(report["recall"])
    assert values["entity_f1_strict"] == pytest.approx(report["f1-score"])


def test_type_and_both_ends_must_be_right() -> None:
    """Counted by hand: of 3 gold and 3 predicted entities, one is right."""
    gold = ["B-PER", "I-PER", "O", "B-LOC", "O", "B-PER"]
    predicted = ["B-PER", "I-PER", "O", "B-PER", "O", "B-PER"]
    values = scored([(gold, predicted), (["B-LOC", "I-LOC"], ["B-LOC", "O"])]).values
    assert values["entity_precision"] == pytest.approx(2 / 4)
    assert values["entity_recall"] == pytest.approx(2 / 4)


def test_strict_mode_does_not_count_an_entity_that_starts_with_i() -> None:
    values = scored([(["B-PER", "I-PER"], ["I-PER", "I-PER"])]).values
    assert values["entity_f1"] == 1.0
    assert values["entity_f1_strict"] == 0.0


@pytest.mark.parametrize("pairs", [[], [([], [])], [(["O"], ["O"])]])
def test_nothing_to_count_is_zero(pairs: list[Pair]) -> None:
    """fault 15: all-O data or no examples give 0.0, under every key."""
    scores = scored(pairs)
    assert dict(scores.values) == dict.fromkeys(KEYS, 0.0)
    assert scores.tables[0].title == "Entities (type and both ends must be right)"


def test_tags_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="1 predicted tags for 2 words"):
        scored([(["O", "O"], ["O"])])


def seqeval_report(pairs: list[Pair], **options: object) -> dict[str, dict[str, float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report: dict[str, dict[str, float]] = classification_report(
            [gold for gold, _ in pairs], [predicted for _, predicted in pairs], output_dict=True, **options
        )
    return report

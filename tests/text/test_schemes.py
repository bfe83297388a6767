"""Tagging schemes: reading, writing, detecting, and what is illegal."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.text.schemes import (
    SCHEMES,
    Scheme,
    Span,
    convert,
    detect,
    legal_steps,
    malformed,
    repaired,
    spans_of,
    tags_of,
    violations,
)

FAITHFUL: tuple[Scheme, ...] = ("iob1", "iob2", "bioes", "bilou")


@st.composite
def sentences(draw: st.DrawFn) -> tuple[list[Span], int]:
    """Spans that do not overlap, and how many words there are."""
    spans: list[Span] = []
    at = 0
    for gap, size, kind in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["PER", "work-of-art"])), max_size=6)
    ):
        spans.append(Span(at + gap, at + gap + size, kind))
        at += gap + size
    return spans, at + draw(st.integers(0, 2))


@given(sentences(), st.sampled_from(FAITHFUL))
def test_spans_survive_every_scheme(sentence: tuple[list[Span], int], scheme: Scheme) -> None:
    """fault 14: what a scheme writes is legal in it and reads back as the same entities."""
    spans, length = sentence
    tags = tags_of(spans, length, scheme)
    assert violations(tags, scheme) == []
    assert spans_of(tags) == spans
    assert tags_of(spans_of(convert(tags, "iob2")), length, scheme) == tags


@given(sentences(), st.sampled_from(FAITHFUL))
def test_legal_in_two_schemes_means_equal_entities(sentence: tuple[list[Span], int], scheme: Scheme) -> None:
    """So features never depend on which of the legal schemes was detected."""
    tags = tags_of(*sentence, scheme)
    legal = [other for other in FAITHFUL if not violations(tags, other)]
    assert {tuple(convert(tags, other)) for other in legal} == {tuple(convert(tags, scheme))}


@given(st.sampled_from(SCHEMES), st.lists(st.integers(0, 8), min_size=1, max_size=5))
def test_steps_are_legal_exactly_where_sequences_are(scheme: Scheme, ids: list[int]) -> None:
    prefixes = {"iob1": "BI", "iob2": "BI", "bioes": "BIES", "bilou": "BILU", "io": "I"}[scheme]
    names = ["O", *(f"{prefix}-{kind}" for kind in ("A", "B") for prefix in prefixes)]
    first, between, last = legal_steps(names, scheme)
    tags = [number % len(names) for number in ids]
    steps = [between[a][b] for a, b in itertools.pairwise(tags)]
    legal = first[tags[0]] and all(steps) and last[tags[-1]]
    assert legal == (violations([names[tag] for tag in tags], scheme) == [])


@given(st.lists(sentences(), min_size=1, max_size=5), st.sampled_from(FAITHFUL))
def test_detected_scheme_allows_the_data(data: list[tuple[list[Span], int]], scheme: Scheme) -> None:
    """Whatever the scheme of the data was, no tag is illegal in the one that is found, unless it is truly ambiguous."""
    tags = [tags_of(spans, length, scheme) for spans, length in data]
    found = detect(tags)
    if scheme in ("iob1", "iob2") or any("E-" in tag or "L-" in tag for one in tags for tag in one):
        assert all(violations(one, found.scheme) == [] for one in tags)


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        (["O", "O"], "iob2"),
        (["B-PER", "I-PER", "O"], "iob2"),
        (["I-PER", "I-PER", "O", "I-LOC", "B-LOC"], "iob1"),
        (["S-PER", "O"], "bioes"),
        (["B-PER", "E-PER"], "bioes"),
        (["U-PER", "O"], "bilou"),
        (["B-PER", "I-PER", "L-PER"], "bilou"),
        (["person", "person", "O"], "io"),
    ],
)
def test_scheme_is_detected_with_evidence(tags: list[str], scheme: Scheme) -> None:
    found = detect([tags])
    assert found.scheme == scheme
    assert found.evidence


@pytest.mark.parametrize(
    ("scheme", "tags", "index", "repair"),
    [
        ("iob2", ["O", "I-PER"], 1, "B-PER"),
        ("iob2", ["B-LOC", "I-PER"], 1, "B-PER"),
        ("iob1", ["O", "B-PER"], 1, "I-PER"),
        ("bioes", ["B-PER", "O"], 0, "S-PER"),
        ("bioes", ["O", "E-PER"], 1, "S-PER"),
        ("bilou", ["B-PER", "I-PER"], 1, "L-PER"),
        ("iob2", ["S-PER"], 0, "B-PER"),
        ("iob2", ["PER"], 0, "B-PER"),
        ("iob2", ["b-PER"], 0, "B-PER"),
        ("iob2", ["B_PER"], 0, "B-PER"),
        ("iob2", ["O", " B-PER "], 1, "B-PER"),
        ("iob2", ["o"], 0, "O"),
    ],
)
def test_illegal_tag_is_placed_and_a_repair_offered(scheme: Scheme, tags: list[str], index: int, repair: str) -> None:
    """fault 14: the item, the message and the repair; the tags themselves stay."""
    before = list(tags)
    found = violations(tags, scheme)
    assert [violation.index for violation in found] == [index]
    assert repr(tags[index]) in found[0].message
    assert repaired(tags, index, scheme) == repair
    assert tags == before


@given(sentences(), st.sampled_from(FAITHFUL), st.data())
def test_any_sequence_is_read_without_error(
    sentence: tuple[list[Span], int], scheme: Scheme, data: st.DataObject
) -> None:
    tags = data.draw(st.permutations(tags_of(*sentence, scheme)))
    assert violations(convert(tags, scheme), scheme) == []


@pytest.mark.parametrize("tag", ["", " ", "o", "B-", "X-PER", " B-PER"])
def test_malformed_tag_is_named(tag: str) -> None:
    assert malformed(tag)


def test_overlapping_spans_are_refused() -> None:
    """fault 14: overlapping or out-of-bounds spans."""
    with pytest.raises(ValueError, match="overlaps"):
        tags_of([Span(0, 2, "A"), Span(1, 3, "B")], 3)
    with pytest.raises(ValueError, match="outside"):
        tags_of([Span(1, 4, "A")], 3)


def test_schemes_are_all_known() -> None:
    assert set(FAITHFUL) | {"io"} == set(SCHEMES)

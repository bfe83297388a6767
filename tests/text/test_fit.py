"""Over-long texts: windows lose nothing, cuts keep the beginning."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from chainft.text.fit import truncated, windows

LENGTHS = st.integers(0, 30)


def pair(first: int, second: int) -> list[int | None]:
    """[CLS] first [SEP] second [SEP]"""
    return [None, *[0] * first, None, *[1] * second, None]


@given(LENGTHS, LENGTHS, st.integers(4, 20), st.integers(0, 8))
def test_windows_hold_every_token_and_fit(first: int, second: int, limit: int, overlap: int) -> None:
    """fault 13: nothing is cut off."""
    ids = pair(first, second)
    found = windows(ids, limit=limit, overlap=overlap)
    if found is None:
        assert min(first, second) + 3 >= limit
        return
    assert {position for window in found for position in window} == set(range(len(ids)))
    special = {position for position, part in enumerate(ids) if part is None}
    for window in found:
        assert len(window) <= limit
        assert window == sorted(set(window))
        assert special <= set(window)


def test_neighbours_share_the_overlap() -> None:
    ids: list[int | None] = [None, *[0] * 14, None]
    first, second, third = windows(ids, limit=8, overlap=2) or []
    assert (first, second) == ([0, *range(1, 7), 15], [0, *range(5, 11), 15])
    assert third == [0, *range(9, 15), 15]


@given(LENGTHS, LENGTHS, st.integers(3, 40))
def test_a_cut_keeps_the_beginnings_and_fills_the_limit(first: int, second: int, limit: int) -> None:
    ids = pair(first, second)
    assume(len(ids) >= limit)
    kept = truncated(ids, limit=limit)
    assert len(kept) == limit
    for part in (0, 1):
        places = [position for position, one in enumerate(ids) if one == part]
        left = [position for position in kept if ids[position] == part]
        assert left == places[: len(left)]


def test_the_longer_text_of_a_pair_gives_way() -> None:
    kept = truncated(pair(10, 2), limit=9)
    assert [pair(10, 2)[position] for position in kept] == [None, 0, 0, 0, 0, None, 1, 1, None]

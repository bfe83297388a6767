"""Cuts that make the most expensive stage as cheap as possible."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate


def balanced_cuts(costs: Sequence[float], count: int) -> list[int]:
    """Where to cut blocks of these costs into `count` stages (1 to the number of blocks): 0, the cuts, the end.

    Exact: of all cuts, those whose most expensive stage is cheapest; of these, the earliest.

    >>> balanced_cuts([1, 1, 1, 3], 2)
    [0, 3, 4]
    """
    sums = [0.0, *accumulate(costs)]

    @cache
    def best(start: int, stages: int) -> tuple[float, tuple[int, ...]]:
        if stages == 1:
            return sums[-1] - sums[start], (len(costs),)
        found = []
        for cut in range(start + 1, len(costs) - stages + 2):
            worst, rest = best(cut, stages - 1)
            found.append((max(sums[cut] - sums[start], worst), (cut, *rest)))
        return min(found)

    return [0, *best(0, count)[1]]

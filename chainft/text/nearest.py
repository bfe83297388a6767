"""The most alike of known sets of words: a baseline for tasks that answer as a similar example does.

Likeness is the cosine of binary vectors whose entries weigh log(1 + N / n), where n of N sets have the entry
(inverse document frequency: K. Spärck Jones, 1972).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence


def nearest(known: Sequence[Iterable[Hashable]]) -> Callable[[Iterable[Hashable]], int | None]:
    """A function that gives the number of the most alike set, the first of equals; None where none shares anything.

    >>> find = nearest([{"red", "car"}, {"red", "house"}, {"green", "tree"}])
    >>> find({"a", "house"}), find({"tree", "red"}), find({"sea"})
    (1, 2, None)
    """
    sets = [frozenset(one) for one in known]
    counts = Counter(entry for one in sets for entry in one)
    weights = {entry: math.log(1 + len(sets) / count) ** 2 for entry, count in counts.items()}
    norms = [math.sqrt(sum(weights[entry] for entry in one)) for one in sets]
    places: dict[Hashable, list[int]] = defaultdict(list)
    for number, one in enumerate(sets):
        for entry in one:
            places[entry].append(number)

    def find(given: Iterable[Hashable]) -> int | None:
        shared: dict[int, float] = defaultdict(float)
        for entry in sorted(frozenset(given) & weights.keys(), key=repr):
            for number in places[entry]:
                shared[number] += weights[entry]
        return max(sorted(shared), key=lambda number: shared[number] / norms[number], default=None)

    return find

"""Numbers as answers: read from what tables and JSON hold."""

from __future__ import annotations

import math
from collections.abc import Iterator

from chainft.errors import Problem


def read_number(value: object) -> float | None:
    """A finite number, or text that is one; None for anything else.

    >>> [read_number(value) for value in (3, "4.5", " 2e-1 ", "4,5", True, "nan", None)]
    [3.0, 4.5, 0.2, None, None, None, None]
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def number_problems(value: object, name: str, where: str) -> Iterator[Problem]:
    """What keeps `value` from being a number."""
    if read_number(value) is None:
        help = "write a finite number with a point, such as 3.5, or leave such rows out by data.on_error=skip"
        yield Problem("not-a-number", f"{name} must be a number, not {value!r}", where, help=help)

"""Limits that config fields declare in their type: `Annotated[float, Above(0)]`; checked by `parse`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Limits:
    """A closed or open range of numbers; infinities and NaN are always outside."""

    low: float | None = None
    high: float | None = None
    open_low: bool = False
    open_high: bool = False

    def contains(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.low is not None and (value < self.low or (self.open_low and value == self.low)):
            return False
        return self.high is None or not (value > self.high or (self.open_high and value == self.high))

    def __str__(self) -> str:
        low = "-inf" if self.low is None else f"{self.low:g}"
        high = "inf" if self.high is None else f"{self.high:g}"
        left = "(" if self.open_low or self.low is None else "["
        right = ")" if self.open_high or self.high is None else "]"
        return f"{left}{low}, {high}{right}"


Positive = Annotated[float, Limits(low=0, open_low=True)]
NotNegative = Annotated[float, Limits(low=0)]
Fraction = Annotated[float, Limits(low=0, high=1)]
FractionBelowOne = Annotated[float, Limits(low=0, high=1, open_high=True)]
Count = Annotated[int, Limits(low=1)]
CountOrZero = Annotated[int, Limits(low=0)]
Seed = Annotated[int, Limits(low=0, high=2**32 - 1)]

"""From values to places on an axis, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from chainft.report.words import short

_NOTHING = 1e-30


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from `low` (at place `start`) to `high` (at `end`)."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where `value` stands; values outside stand at the border."""
        low, high, inside = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, inside = math.log(low), math.log(high), math.log(inside)
        return self.start + (inside - low) / (high - low) * (self.end - self.start)

    def labels(self) -> list[str]:
        """The ticks in words, all with the same number of decimals."""
        if self.log or len(self.ticks) < 2:
            return [short(tick) for tick in self.ticks]
        step = self.ticks[1] - self.ticks[0]
        if step < 1e-3:
            return [short(float(f"{tick:.3g}")) for tick in self.ticks]
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        return [f"{tick:,.{decimals}f}" for tick in self.ticks]


def linear(values: Iterable[float], *, start: float, end: float, zero: bool = False, count: int = 5) -> Scale:
    """An axis that holds all `values` between round ends; `zero`: from 0 on.

    >>> linear([0.3, 9.2], start=0, end=100).ticks
    (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)
    """
    low, high = _ends(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = (0.0 if zero else low - (abs(low) * 0.1 or 0.5)), high + (abs(high) * 0.1 or 0.5)
    step = nice_step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(_clean(index * step) for index in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def fitted(values: Iterable[float], *, start: float, end: float, count: int = 6, whole: bool = False) -> Scale:
    """An axis that ends exactly at the extremes of `values`, with round ticks inside.

    >>> fitted([1, 200], start=0, end=100, count=5).ticks
    (50.0, 100.0, 150.0, 200.0)
    """
    low, high = _ends(values)
    if high <= low:
        low, high = low - 0.5, high + 0.5
    step = nice_step((high - low) / count)
    step = max(step, 1.0) if whole else step
    ticks = tuple(
        _clean(index * step) for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    )
    return Scale(low, high, start, end, ticks)


def logarithmic(values: Iterable[float], *, start: float, end: float) -> Scale:
    """An axis of powers of ten around positive `values`."""
    low, high = _ends(values)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    every = max(1, (last - first) // 5)
    return Scale(
        10.0**first, 10.0**last, start, end, tuple(10.0**index for index in range(first, last + 1, every)), log=True
    )


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 5 x a power of ten that is not below `least`.

    >>> [nice_step(least) for least in (0.03, 1.2, 40)]
    [0.05, 2.0, 50.0]
    """
    power = 10.0 ** math.floor(math.log10(least))
    return next(_clean(factor * power) for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _clean(value: float) -> float:
    """Without the noise of binary fractions: 0.3 for 0.30000000000000004."""
    return float(f"{value:.12g}")


def _ends(values: Iterable[float]) -> tuple[float, float]:
    """The least and the greatest; what is next to nothing counts as 0."""
    known = [value if abs(value) > _NOTHING else 0.0 for value in values if math.isfinite(value)]
    return (min(known), max(known)) if known else (0.0, 1.0)

"""How many stars the answers are off, on average."""

from __future__ import annotations

from typing import ClassVar

from chainft.tasks.base import Metric, Scores


class StarsError(Metric):
    family: ClassVar[str] = "number"

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def update(self, gold: float, predicted: float) -> None:
        self._sum += abs(gold - predicted)
        self._count += 1

    def compute(self) -> Scores:
        value = self._sum / self._count if self._count else 0.0
        return Scores({"stars_error": value}, meanings={"stars_error": "stars too many or too few, on average"})

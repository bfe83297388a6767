"""Simple answers that a trained model must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chainft.data.example import Example

Baseline = Callable[[Example], Any]
"""Answers an example without a trained model, in the form in which metrics take predictions."""


@dataclass(frozen=True)
class Together:
    """A baseline that answers many examples at once, in far less time than one by one."""

    answers: Callable[[Sequence[Example]], Sequence[Any]]
    """In the order of the examples."""

    def __call__(self, example: Example) -> Any:
        return self.answers([example])[0]

"""Label sets of tasks: learned from train, held against the other splits, and weighted for the loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from chainft.data.example import Split
from chainft.errors import ConfigError, DataError, Problem, did_you_mean

ClassWeights = Literal["balanced"] | Mapping[str, float] | None


@dataclass
class Census:
    """How often each label is in a split, and where it is first."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, label: str, where: str) -> None:
        """Count one label; `where` as errors show it."""
        self.counts[label] += 1
        self.first.setdefault(label, where)


def label_set(census: Mapping[Split, Census], *, unseen: Literal["error", "allow"], what: str) -> list[str]:
    """All labels in alphabetical order; `what` names one of them in messages (`label`, `entity type`).

    Raises DataError for every label that train lacks, with split, place, count and the nearest label, unless
    `unseen` is `allow`.
    """
    known = sorted(census["train"].counts) if "train" in census else []
    problems = [problem for split in census if split != "train" for problem in _unseen(census, split, known, what)]
    if problems and unseen == "error":
        raise DataError.of(problems)
    return sorted({label for one in census.values() for label in one.counts})


def weights_of(
    weights: ClassWeights, names: Sequence[str], counts: Mapping[str, int], *, key: str
) -> np.ndarray | None:
    """(C,) float32 weight of each class, or None for equal ones. Raises ConfigError for a name that is no label.

    `balanced` gives a class with n of N training targets the weight N / (K * n), as scikit-learn does, so that each
    of the K classes that training has gets the same share in the loss; a class that it never has keeps 1. A mapping weighs what it names.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        total, kinds = sum(counts.get(name, 0) for name in names), sum(1 for name in names if counts.get(name))
        balanced = [total / (kinds * counts[name]) if counts.get(name) else 1.0 for name in names]
        return np.array(balanced, np.float32)
    unknown = [name for name in weights if name not in names]
    if unknown:
        raise ConfigError.of(_unknown_weights(unknown, names, key))
    return np.array([weights.get(name, 1.0) for name in names], np.float32)


def _unseen(census: Mapping[Split, Census], split: Split, known: list[str], what: str) -> Iterator[Problem]:
    here = census[split]
    for label in sorted(set(here.counts) - set(known)):
        times = "once" if here.counts[label] == 1 else f"{here.counts[label]} times"
        listed = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
        hint = did_you_mean(label, known) or f"train has {listed or 'no labels'}."
        yield Problem(
            "unseen-label",
            f"{what} {label!r} is in {split} ({times}) but not in train",
            where=here.first[label],
            key="data.unseen_labels",
            help=f"{hint} If it is right, set data.unseen_labels=allow (it counts as a class that is never learned)",
        )


def _unknown_weights(unknown: Iterable[str], names: Sequence[str], key: str) -> Iterator[Problem]:
    for name in unknown:
        yield Problem(
            "unknown-label",
            f"{key} gives a weight to {name!r}, which is no label",
            key=f"{key}.{name}",
            help=did_you_mean(name, names) or f"the labels are {', '.join(names)}",
        )

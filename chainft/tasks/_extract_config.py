"""Settings of the extract task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from chainft.config.ranges import Count, CountOrZero, Positive
from chainft.config.run import TaskConfig
from chainft.errors import Problem, did_you_mean
from chainft.text.relations import Markers

HEADS = ("entities", "relations")


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(TaskConfig):
    """Entities of a text, and the relations between them."""

    name: str = "extract"
    symmetric: tuple[str, ...] = ()
    """Relations without direction, such as `[married_to]`: head and tail may be exchanged."""
    markers: Markers = "typed"
    """What stands around the two entities of a pair: their types and marks (`@ * person * Ada @`), or punct, marks
    alone (`@ Ada @`)."""
    type_pairs: Literal["seen", "all"] = "seen"
    """Which pairs are asked for their relation: of types that are related somewhere in training, or all."""
    max_distance: CountOrZero | None = None
    """Most words between the entities of a pair; a pair farther apart is not asked. null: no limit."""
    max_pairs: Count = 64
    """Most pairs of a text that are asked, the nearest first."""
    crf: bool = False
    """A linear-chain CRF on the head for entities, which learns how tags follow each other."""
    weights: Mapping[str, Positive] = field(default_factory=dict)
    """What the loss of each head counts, by its name (entities, relations); default 1."""
    metrics: tuple[str, ...] = ("extraction",)
    """What evaluation counts."""

    def wrong_settings(self) -> Iterator[Problem]:
        """Settings that name what is not there."""
        for name in self.weights:
            if name not in HEADS:
                help = did_you_mean(name, HEADS) or f"the heads are: {', '.join(HEADS)}"
                yield Problem("unknown-head", f"no head is named {name!r}", key=f"task.weights.{name}", help=help)

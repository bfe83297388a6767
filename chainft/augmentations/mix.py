"""`augment=mix`: entities change places with others of their type; the sentences around them stay.

Mention replacement (Dai & Adel 2020, "An Analysis of Simple Data Augmentation for Named Entity Recognition").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from chainft.augmentations.base import Augmentation, AugmentationConfig, Made, Progress, Share, is_tagged, unfit
from chainft.data.example import Example
from chainft.text.schemes import Span, spans_of, tags_of

if TYPE_CHECKING:
    from chainft.tasks.base import Task

Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MixConfig(AugmentationConfig):
    """Entities are exchanged for others of their type."""

    name: str = "mix"
    share: Share = 0.5
    """The probability with which an entity is exchanged; 1: each."""


class Mix(Augmentation):
    """Draws, for each entity that is exchanged, one of the different entities of its type in training."""

    config_class: ClassVar[type[AugmentationConfig]] = MixConfig
    config: MixConfig

    def __init__(self, config: AugmentationConfig, task: Task) -> None:
        super().__init__(config, task)
        if not is_tagged(task):
            raise unfit(config, task, "they have no entities", "take augment=mask or back_translate")

    def make(self, examples: Sequence[Example], *, progress: Progress) -> Iterator[Made]:
        pools = entities_by_type(examples)
        for number, example in enumerate(examples):
            for copy in range(self.config.num_copies):
                if (made := self._exchanged(example, pools, self.random(number, copy))) is not None:
                    yield made
            progress(number + 1, len(examples))

    def _exchanged(
        self, example: Example, pools: Mapping[str, Sequence[Words]], random: np.random.Generator
    ) -> Made | None:
        """The example with other entities; None where none was drawn."""
        words: list[str] = example.values["tokens"]
        spans = spans_of(example.values["tags"])
        made: list[str] = []
        placed: list[Span] = []
        changes: list[dict[str, Any]] = []
        end = 0
        for span in spans:
            made += words[end : span.start]
            old, end = tuple(words[span.start : span.end]), span.end
            new = self._other(old, pools[span.type], random)
            placed.append(Span(len(made), len(made) + len(new), span.type))
            made += new
            if new != old:
                changes.append({"type": span.type, "from": " ".join(old), "to": " ".join(new)})
        if not changes:
            return None
        made += words[end:]
        values = {**example.values, "tokens": made, "tags": tags_of(placed, len(made))}
        return Made(values, example, {"entities": changes})

    def _other(self, entity: Words, pool: Sequence[Words], random: np.random.Generator) -> Words:
        """Another entity of the type, or the same where it stays or is the only one."""
        if random.random() >= self.config.share or len(pool) < 2:
            return entity
        drawn = int(random.integers(len(pool) - 1))
        others = [one for one in pool if one != entity]
        return others[drawn]


def entities_by_type(examples: Sequence[Example]) -> Mapping[str, Sequence[Words]]:
    """The different entities of each type, in the order in which they first come."""
    pools: defaultdict[str, dict[Words, None]] = defaultdict(dict)
    for example in examples:
        for span in spans_of(example.values["tags"]):
            pools[span.type][tuple(example.values["tokens"][span.start : span.end])] = None
    return {kind: list(pool) for kind, pool in pools.items()}


PLUGIN = Mix

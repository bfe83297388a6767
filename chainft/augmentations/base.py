"""What an augmentation is: it makes new labelled training examples from those there are; a plug-in.

It sees training examples only. What it makes is deduplicated, kept apart from validation and test, and written with
its provenance by `chainft.augmentations._dataset`. A plug-in is one module that binds its class to `PLUGIN`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from chainft.config.ranges import Count, Limits, Seed
from chainft.data.example import Example
from chainft.errors import ConfigError

if TYPE_CHECKING:
    from chainft.tasks.base import Task

Share = Annotated[float, Limits(low=0, high=1, open_low=True)]
"""A share that is not nothing."""
Progress = Callable[[int, int], None]
"""Receives how much is done, and how much there is."""


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How new examples are made. Each augmentation adds its own fields."""

    name: str
    """The augmentation: mix, mask, back_translate, by_label, or one of an installed package."""
    num_copies: Count = 1
    """Most new examples that are made of one (of `by_label`: for one label)."""
    seed: Seed = 42
    """Seed of every choice; what is made of an example depends on it and the training data alone."""


@dataclass(frozen=True)
class Made:
    """One new example."""

    values: Mapping[str, Any]
    """As a training example has them."""
    source: Example | None
    """The example that it was made of; None: it was made of a label."""
    facts: Mapping[str, Any]
    """What was done: plain JSON values, for the provenance."""


class Augmentation(ABC):
    """Makes new examples for one task."""

    config_class: ClassVar[type[AugmentationConfig]]
    uses_models: ClassVar[bool] = False
    """Whether it computes with models, whose libraries are then imported, and kept quiet, before it begins."""

    def __init__(self, config: AugmentationConfig, task: Task) -> None:
        """Raises ConfigError for a task of whose examples none can be made."""
        self.config = config
        self.task = task

    @abstractmethod
    def make(self, examples: Sequence[Example], *, progress: Progress) -> Iterator[Made]:
        """New examples of training examples, in a fixed order. What equals an example is dropped by the caller."""

    def random(self, number: int, copy: int) -> np.random.Generator:
        """The random numbers for copy `copy` of example `number`."""
        return np.random.default_rng([self.config.seed, number, copy])


def is_tagged(task: Task) -> bool:
    """Whether examples are words with a tag each."""
    kinds = {field.name: field.kind for field in task.fields}
    return kinds.get("tokens") == "texts" and kinds.get("tags") == "tags"


def text_fields(task: Task) -> tuple[str, ...]:
    """The texts of an example that may be reworded, where its label holds for the whole: none where the gold is a
    part of a text, another text, or anything else."""
    if any(field.gold and field.kind not in ("label", "labels") for field in task.fields):
        return ()
    if not all(field.gold or field.kind == "text" for field in task.fields):
        return ()
    return tuple(field.name for field in task.fields if not field.gold)


def drawn_field(fields: Sequence[str], example: Example, random: np.random.Generator) -> str:
    """One of the texts that the example has."""
    present = [name for name in fields if example.values.get(name) is not None]
    return present[int(random.integers(len(present)))]


def unfit(config: AugmentationConfig, task: Task, because: str, help: str) -> ConfigError:
    """The error for a task that an augmentation cannot serve."""
    return ConfigError(
        f"augment={config.name} makes no examples of task {task.config.name!r}: {because}",
        slug="unsupported-task",
        key="augment.name",
        help=help,
    )

"""The checkpoints of a run as all its processes see them: the main one looks, writes and tells, the others follow.

Every process calls the same methods at the same points of the training. So none decides by what it happens to see in a
folder that another one is just writing, or that a network file system shows late.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainft.train.checkpoint import Checkpoint, CheckpointStore
from chainft.train.manifest import JSON
from chainft.world import World

if TYPE_CHECKING:
    from torch import Tensor


class SharedCheckpoints:
    """As `CheckpointStore`, on every process of a run."""

    def __init__(self, store: CheckpointStore, world: World | None = None) -> None:
        """`store` may write on the main process; on the others it is for reading."""
        self.store = store
        self.world = world or World()

    @classmethod
    def of(cls, world: World, folder: Path, max_checkpoints: int) -> SharedCheckpoints:
        return cls(CheckpointStore(folder, max_checkpoints=max_checkpoints if world.is_main else None), world)

    @property
    def folder(self) -> Path:
        return self.store.folder

    def save(
        self,
        step: int,
        *,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, JSON],
        facts: Mapping[str, JSON],
    ) -> None:
        """Commit a checkpoint of what the main process gives; all wait for it. Raises as the store does."""
        if self.world.is_main:
            self.store.save(step, tensors=tensors, state=state, facts=facts)
        self.world.share()

    def mark_best(self, step: int) -> None:
        """As the store does."""
        if self.world.is_main:
            self.store.mark_best(step)
        self.world.share()

    def rotate(self) -> None:
        """As the store does."""
        if self.world.is_main:
            self.store.rotate()

    def steps(self) -> tuple[int, ...]:
        """As the main process sees them."""
        return tuple(self.world.share(self.store.steps() if self.world.is_main else None))

    def best(self) -> Checkpoint | None:
        """As the main process sees it."""
        return self._told(self.store.best() if self.world.is_main else None)

    def latest(self) -> Checkpoint | None:
        """As the main process sees it, which verifies every file."""
        return self._told(self.store.latest() if self.world.is_main else None)

    def _told(self, found: Checkpoint | None) -> Checkpoint | None:
        name: Any = self.world.share(found and found.path.name)
        if self.world.is_main:
            return found
        return Checkpoint.open(self.folder / name) if name else None

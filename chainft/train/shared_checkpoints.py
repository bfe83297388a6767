"""The checkpoints of a run as all its processes see them: the main one looks, decides and tells, the others follow.

Every process calls the same methods at the same points of the training. So none decides by what it happens to see in a
folder that another one is just writing, or that a network file system shows late. With `asynchronous`, a thread writes
while the training goes on; until that is over nobody else touches the store.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainft.config.run import CheckpointConfig
from chainft.errors import ChainftError, CheckpointError, Problem
from chainft.train.background import Background
from chainft.train.checkpoint import CheckpointStore
from chainft.train.joint_save import JointSave
from chainft.train.manifest import JSON, verify_files
from chainft.train.saved import Checkpoint
from chainft.world import World

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_RUNNING, _FAILED = 1, 2


class SharedCheckpoints:
    """As `CheckpointStore`, on every process of a run."""

    def __init__(self, store: CheckpointStore, world: World | None = None, *, asynchronous: bool = False) -> None:
        """`store` may write on the main process; on the others it is for reading."""
        self.store = store
        self.world = world or World()
        self._background = Background() if asynchronous else None
        self._pending: int | None = None
        """The step whose checkpoint is being written, as far as all processes know."""
        self._count = 0

    @classmethod
    def of(cls, world: World, folder: Path, settings: CheckpointConfig) -> SharedCheckpoints:
        store = CheckpointStore(folder, max_checkpoints=settings.max_checkpoints if world.is_main else None)
        return cls(store, world, asynchronous=settings.asynchronous)

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
        """Commit a checkpoint: `tensors` are the part of each process, the main one gives the rest.

        Raises as the store does, on all processes. Asynchronous, it returns when the tensors are copied to memory of the
        CPU; what the thread fails at is raised by whatever is called next.
        """
        from chainft.train.tensor_file import copied

        self.settle()
        if self._background is None:
            self._save(step, tensors, state, facts, self._joint())
            return
        copies = {name: copied(group) for name, group in tensors.items()}
        self._background.do(partial(self._save, step, copies, state, facts, self._joint()))
        self._pending = step

    def mark_best(self, step: int) -> None:
        """As the store does; of a checkpoint that is being written, as soon as it is committed."""
        mark = partial(self._mark_best, step, self._joint())
        if self._background is not None and self._pending == step:
            self._background.do(mark)
        else:
            self.settle()
            mark()

    def rotate(self) -> None:
        """As the store does. Called after each step: raises what went wrong with an asynchronous save meanwhile."""
        if self._is_over() and self.world.is_main:
            self.store.rotate()

    def has(self, step: int) -> bool:
        """Whether there is a checkpoint of a step, or one is being written."""
        return step == self._pending or step in self.steps()

    def steps(self) -> tuple[int, ...]:
        """As the main process sees them."""
        self.settle()
        return tuple(self.world.share(self.store.steps() if self.world.is_main else None))

    def settle(self) -> None:
        """Wait until what is being written is committed; raises what went wrong with it."""
        self._pending = None
        if self._background is not None:
            self._background.wait()

    @contextmanager
    def settled(self) -> Iterator[None]:
        """However the context ends, nothing is being written any more then; its own error goes first."""
        try:
            yield
        except BaseException:
            try:
                self.settle()
            except ChainftError as error:
                logger.warning("%s", error)
            raise
        self.settle()

    def best(self) -> Checkpoint | None:
        """As the main process sees it."""
        self.settle()
        found = self.store.best() if self.world.is_main else None
        name: Any = self.world.share(found and found.path.name)
        if self.world.is_main:
            return found
        return Checkpoint.open(self.folder / name) if name else None

    def latest(self) -> Checkpoint | None:
        """As the main process sees it; of the files each process verifies some."""
        self.settle()
        if self.world.is_alone:
            return self.store.latest()
        return self._lead() if self.world.is_main else self._follow()

    def verify(self, checkpoint: Checkpoint, name: str | None = None) -> None:
        """Compare the files of a checkpoint with their digests, of the tensors `name` or all: each process some.

        Raises CheckpointError on all of them. Files that were verified before are not read again.
        """
        files = checkpoint.unverified(name)
        problems: list[Problem] = []
        for entry in files[self.world.rank :: self.world.size]:
            try:
                verify_files(checkpoint.path, [entry])
            except CheckpointError as error:
                problems += error.problems
        self._count += 1
        told = self.world.collect(f"verify/{self._count}", [asdict(one) for one in problems])
        found: Any = self.world.share([problem for several in told for problem in several])
        if found:
            raise CheckpointError.of(Problem(**one) for one in found)
        checkpoint.trust(files)

    def _lead(self) -> Checkpoint | None:
        def verify(checkpoint: Checkpoint) -> None:
            self.world.share({"verify": checkpoint.path.name})
            self.verify(checkpoint)

        try:
            found = self.store.latest(verify)
        except CheckpointError as error:
            self.world.share({"problems": [asdict(one) for one in error.problems]})
            raise
        self.world.share({"found": found and found.path.name})
        return found

    def _follow(self) -> Checkpoint | None:
        checkpoint: Checkpoint | None = None
        while "verify" in (told := self.world.share()):
            checkpoint = Checkpoint.open(self.folder / told["verify"])
            try:
                self.verify(checkpoint)
            except CheckpointError:
                checkpoint = None  # The main process says how it goes on.
        if "problems" in told:
            raise CheckpointError.of(Problem(**one) for one in told["problems"])
        return checkpoint

    def _save(
        self,
        step: int,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, JSON],
        facts: Mapping[str, JSON],
        joint: JointSave,
    ) -> None:
        from chainft.train.tensor_file import pack

        if self.world.is_main:
            with joint.led():
                self.store.save(step, tensors=tensors, state=state, facts=facts, joint=joint)
        else:
            joint.follow(self.folder, {name: pack(group) for name, group in tensors.items()}, step)

    def _mark_best(self, step: int, joint: JointSave) -> None:
        if self.world.is_main:
            with joint.led():
                self.store.mark_best(step)
        else:
            joint.wait()

    def _joint(self) -> JointSave:
        self._count += 1
        return JointSave(self.world, self._count)

    def _is_over(self) -> bool:
        """Whether nothing is being written; the same on all processes, which then settle together."""
        if self._pending is None or self._background is None:
            return True
        seen = _FAILED if self._background.has_failed else _RUNNING if self._background.is_busy else 0
        if self.world.most(seen) == _RUNNING:
            return False
        self.settle()
        return True

"""Checkpoints that appear whole or not at all, whenever the process is killed or the disk fills up.

`<folder>/step-000500/` holds a `.safetensors` file for each group of tensors, of several processes one each,
`state.json`, `MANIFEST.json` and, once all of that is on the disk, `COMMIT`. Only then does the link `last` move and an
old checkpoint go. See `manifest` for how damage is noticed, `saved` for reading; no pickle is written or read. All paths
are relative: a moved run folder goes on working.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chainft.errors import CheckpointError
from chainft.train.checkpoint_files import (
    TEMPORARY,
    failed_save,
    remove_checkpoint,
    seal,
    write_state,
)
from chainft.train.durable import read_link, replace_link, require_space
from chainft.train.faults import fault_point
from chainft.train.joint_save import JointSave
from chainft.train.manifest import JSON, Manifest, format_of, is_checkpoint
from chainft.train.saved import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-\d+(-\d+)?")


class CheckpointStore:
    """The checkpoints of one run.

    With `max_checkpoints`, for the one process that holds the run's lock: the folder is made and what a killed process
    left half-written is removed. Without, for reading only: nothing is changed.
    """

    def __init__(self, folder: Path, *, max_checkpoints: int | None = None) -> None:
        self.folder = folder
        self.max_checkpoints = max_checkpoints
        self._damaged: dict[str, CheckpointError] = {}
        self._whole: set[str] = set()
        self._is_rotated = False
        if max_checkpoints is not None:
            self._prepare()

    def save(
        self,
        step: int,
        *,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, JSON],
        facts: Mapping[str, JSON],
        joint: JointSave | None = None,
    ) -> Checkpoint:
        """Commit a checkpoint, move `last` to it, then remove what is too much.

        With `joint`, `tensors` are the part of this process, and the checkpoint holds those of the others too.

        Raises StorageError where it cannot be written; then every checkpoint from before is untouched and nothing
        half-written stays behind. Saved again, a step replaces its earlier checkpoint once the new one is committed.
        """
        from chainft.train.tensor_file import pack

        joint = joint or JointSave()
        packed = {name: pack(group) for name, group in tensors.items()}
        text = json.dumps(state, ensure_ascii=False).encode()
        num_bytes = len(text) + joint.total_bytes(packed)
        require_space(self.folder, num_bytes)
        temporary, final = self.folder / f".step-{step:06d}.tmp-{os.getpid()}", self._free_path(step)
        try:
            temporary.mkdir()
            files = (*joint.write_all(temporary, packed, step), write_state(temporary, text, step))
            manifest = Manifest(step, self._next_sequence(), dict(facts), files, format_of(files))
            seal(temporary, final, manifest)
            self._whole.add(final.name)
            self._is_rotated = False
            fault_point("save.links", step=step)
            self._move_links(step, final.name)
        except OSError as error:
            raise failed_save(error, final, num_bytes) from error
        finally:
            if final.name not in self._whole:
                shutil.rmtree(temporary, ignore_errors=True)
                shutil.rmtree(final, ignore_errors=True)
        fault_point("save.rotate", step=step)
        self.rotate()
        return Checkpoint(final, manifest)

    def mark_best(self, step: int) -> None:
        """Point `best` at the newest checkpoint of `step`; it is kept until another one is marked."""
        checkpoint = next((one for one in self._committed() if one.step == step), None)
        if checkpoint is None:
            message = f"there is no checkpoint of step {step}; there are: {', '.join(map(str, self.steps()))}"
            raise CheckpointError(message, slug="no-such-step", where=str(self.folder))
        fault_point("save.best", step=step)
        try:
            replace_link(self.folder / "best", checkpoint.path.name)
        except OSError as error:
            raise failed_save(error, self.folder / "best", 0) from error
        self._is_rotated = False
        self.rotate()

    def rotate(self) -> None:
        """Remove the oldest beyond `max_checkpoints`, unfinished and damaged ones; never the newest or the best."""
        if self.max_checkpoints is None:
            raise ValueError("a store without max_checkpoints is for reading")
        if self._is_rotated:
            return
        self._is_rotated = True
        committed = self._committed()
        keep = _kept(committed, self._best_name(), self.max_checkpoints)
        removable = [one.path for one in committed]
        if committed and committed[0].path.name in self._whole:
            removable += [path for path, error in self._broken() if error.problems[0].slug != "newer-format"]
        for path in removable:
            if path.name not in keep:
                remove_checkpoint(path)
                if not path.exists():
                    self._damaged.pop(path.name, None)  # The name is free for a sound checkpoint of that step.

    def steps(self) -> tuple[int, ...]:
        """The steps of which there is a committed checkpoint that is not known to be damaged, in order."""
        return tuple(sorted({one.step for one in self._committed()}))

    def best(self) -> Checkpoint | None:
        """The checkpoint marked as best, or None. Raises CheckpointError where it is gone or damaged."""
        name = self._best_name()
        if name is None:
            return None
        if not (self.folder / name).is_dir():
            raise CheckpointError(
                f"the best checkpoint {name} is gone",
                slug="best-gone",
                where=str(self.folder / "best"),
                help=f"bring it back, or remove the link {str(self.folder / 'best')!r} to go on without it",
            )
        return Checkpoint.open(self.folder / name)

    def latest(self, verify: Callable[[Checkpoint], None] = Checkpoint.verify) -> Checkpoint | None:
        """The newest whole checkpoint, every file verified; None where none was ever committed.

        `verify` raises CheckpointError where a file is damaged. Damaged ones are named in a warning and passed over. Raises CheckpointError where all are damaged, or one was
        made by a newer chainft.
        """
        problems = []
        for _, error in self._broken():
            if error.problems[0].slug == "newer-format":
                raise error
            logger.warning("%s", error)
            problems += [problem for problem in error.problems if problem.slug != "uncommitted"]
        for checkpoint in self._committed():
            try:
                verify(checkpoint)
            except CheckpointError as error:
                logger.warning("%s; trying the checkpoint before", error)
                self._damaged[checkpoint.path.name] = error
                problems += error.problems
            else:
                self._whole.add(checkpoint.path.name)
                return checkpoint
        if problems:
            raise CheckpointError.of(problems)
        return None

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.iterdir():
                if TEMPORARY.fullmatch(path.name):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                elif _NAME.fullmatch(path.name) and path.is_dir() and not any(path.iterdir()):
                    path.rmdir()  # Killed at the very end of removing a checkpoint.
        except OSError as error:
            raise failed_save(error, self.folder, 0) from error
        for name in ("last", "best"):
            read_link(self.folder / name)

    def _move_links(self, step: int, name: str) -> None:
        """Point `last` at a new checkpoint, and `best` too where it is on an earlier one of the same step."""
        best = self._best_name()
        replace_link(self.folder / "last", name)
        if any(one.step == step and one.path.name == best for one in self._committed()):
            replace_link(self.folder / "best", name)

    def _committed(self) -> list[Checkpoint]:
        """Checkpoints with a sound manifest, not known to be damaged, the newest first."""
        found = [one for one in self._scan() if isinstance(one, Checkpoint) and one.path.name not in self._damaged]
        return sorted(found, key=lambda one: (one.manifest.sequence, one.step, one.path.name), reverse=True)

    def _broken(self) -> list[tuple[Path, CheckpointError]]:
        """Folders of checkpoints that cannot be used, with the reason."""
        known = [(self.folder / name, error) for name, error in self._damaged.items()]
        return [one for one in self._scan() if not isinstance(one, Checkpoint)] + known

    def _scan(self) -> Iterator[Checkpoint | tuple[Path, CheckpointError]]:
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.iterdir()):
            if _NAME.fullmatch(path.name) and not path.is_symlink() and path.is_dir() and is_checkpoint(path):
                try:
                    yield Checkpoint.open(path)
                except CheckpointError as error:
                    yield path, error

    def _free_path(self, step: int) -> Path:
        names = (f"step-{step:06d}{suffix}" for suffix in ("", *(f"-{number}" for number in range(2, 1000))))
        return next(self.folder / name for name in names if not os.path.lexists(self.folder / name))

    def _next_sequence(self) -> int:
        return max((one.manifest.sequence for one in self._scan() if isinstance(one, Checkpoint)), default=0) + 1

    def _best_name(self) -> str | None:
        """Name of the folder that `best` points at, if that is one of ours."""
        name = read_link(self.folder / "best")
        if name is not None and not _NAME.fullmatch(name):
            logger.warning("the link %s points at %r, which is no checkpoint here", self.folder / "best", name)
            return None
        return name


def _kept(committed: Sequence[Checkpoint], best: str | None, max_checkpoints: int) -> set[str]:
    """Names of those to keep: the newest, the best, then the newest of other steps up to the allowed number."""
    keep = [one for one in committed if one is committed[0] or one.path.name == best]
    for one in committed:
        if len(keep) < max_checkpoints and all(one.step != kept.step for kept in keep):
            keep.append(one)
    return {one.path.name for one in keep} | ({best} if best else set())

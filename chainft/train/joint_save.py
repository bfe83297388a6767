"""How the processes of a run write one checkpoint together: each its own part, and it counts when all parts are whole.

They tell each other through the store of the run, not through collectives: a save may go on in a thread of its own while
the training exchanges gradients. What one process fails at, all fail at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainft.errors import ChainftError, Problem, StorageError
from chainft.train.checkpoint_files import write_parts
from chainft.train.manifest import FileEntry
from chainft.world import World

if TYPE_CHECKING:
    from chainft.train.tensor_file import Packed


class JointSave:
    """One save of all processes. The main one works inside `led`, the others `follow`, or `wait` where there is nothing to write."""

    def __init__(self, world: World | None = None, number: int = 0) -> None:
        """`number`: of all things that the processes do together, each has its own."""
        self._world = world or World()
        self._key = f"save/{number}"
        self._is_begun = False

    def total_bytes(self, packed: Mapping[str, Packed]) -> int:
        """Bytes of the parts of all processes."""
        return sum(self._world.collect(f"{self._key}/bytes", _num_bytes(packed)))

    def write_all(self, folder: Path, packed: Mapping[str, Packed], step: int) -> list[FileEntry]:
        """Write the part of this process while the others write theirs; the entries of all files, groups together.

        Raises the OSError of the process of lowest rank that has one, when all are done: nobody writes any more.
        """
        if not self._world.is_alone:
            self._is_begun = True
            self._world.tell(f"{self._key}/folder", folder.name)
        found: list[FileEntry] = []
        for report in self._world.collect(f"{self._key}/part", self._write(folder, packed, step)):
            if "error" in report:
                raise OSError(*report["error"])
            found += [FileEntry(**entry) for entry in report["files"]]
        return sorted(found, key=lambda entry: entry.path)

    @contextmanager
    def led(self) -> Iterator[None]:
        """Around what the main process does: at its end the others learn that all is done, or what went wrong."""
        try:
            yield
        except ChainftError as error:
            self._end([asdict(problem) for problem in error.problems])
            raise
        self._end([])

    def follow(self, parent: Path, packed: Mapping[str, Packed], step: int) -> None:
        """Write this process's part into the folder that the main one makes in `parent`, and wait until it counts.

        Raises StorageError with what went wrong at any process.
        """
        self._world.collect(f"{self._key}/bytes", _num_bytes(packed))
        name = self._world.told(f"{self._key}/folder")
        if name:
            self._world.collect(f"{self._key}/part", self._write(parent / name, packed, step))
        self.wait()

    def wait(self) -> None:
        """Wait until the main process is done. Raises StorageError with what went wrong at any process."""
        if problems := self._world.told(f"{self._key}/end"):
            raise StorageError.of(Problem(**one) for one in problems)

    def _end(self, problems: list[dict[str, Any]]) -> None:
        if self._world.is_alone:
            return
        if not self._is_begun:
            self._world.tell(f"{self._key}/folder", None)
        self._world.tell(f"{self._key}/end", problems)

    def _write(self, folder: Path, packed: Mapping[str, Packed], step: int) -> dict[str, Any]:
        try:
            files = list(write_parts(folder, packed, step, part=(self._world.rank, self._world.size)))
        except OSError as error:
            return {"error": [error.errno, error.strerror or str(error), str(error.filename)]}
        return {"files": [asdict(entry) for entry in files]}


def _num_bytes(packed: Mapping[str, Packed]) -> int:
    return sum(part.num_bytes for part in packed.values())

"""A committed checkpoint, for reading: its tensors and its state, compared with their digests first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainft.errors import CheckpointError
from chainft.train.checkpoint_files import STATE
from chainft.train.manifest import FileEntry, Manifest, group_of, read_manifest, verify_files

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint. What is read from it is compared with its digest first, once."""

    path: Path
    manifest: Manifest
    _verified: set[str] = field(default_factory=set, repr=False, compare=False)

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """The checkpoint in a folder. Raises CheckpointError where it is unfinished, damaged or of a newer format."""
        return cls(path, read_manifest(path))

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was known about the run: data fingerprint, library versions, epoch, ..."""
        return self.manifest.facts

    @cached_property
    def state(self) -> Mapping[str, Any]:
        """Everything that is not a tensor."""
        entry = self.manifest.entry(STATE)
        if entry is None:
            raise self._lacks(STATE)
        self._check([entry])
        state: Mapping[str, Any] = json.loads((self.path / STATE).read_bytes())
        return state

    def load(self, name: str) -> dict[str, Tensor]:
        """The tensors that were saved as `name`, by however many processes, on the CPU; tied ones are the same object.

        Their bytes are read from the disk when they are used.
        """
        from chainft.train.tensor_file import read_tensors

        entries = self._files_of(name)
        if not entries:
            raise self._lacks(f"{name}.safetensors")
        self._check(entries)
        found: dict[str, Tensor] = {}
        for entry in entries:
            found |= read_tensors(self.path / entry.path, entry.aliases)
        return found

    def verify(self) -> None:
        """Compare every file with its size and digest. Raises CheckpointError that names file and digests."""
        self._check(self.manifest.files, again=True)

    def unverified(self, name: str | None = None) -> list[FileEntry]:
        """Files that were not compared with their digests yet: of the tensors `name`, or all."""
        entries = self.manifest.files if name is None else self._files_of(name)
        return [entry for entry in entries if entry.path not in self._verified]

    def trust(self, entries: Sequence[FileEntry]) -> None:
        """Take files as verified, by other processes of the run."""
        self._verified.update(entry.path for entry in entries)

    def _files_of(self, name: str) -> list[FileEntry]:
        return [entry for entry in self.manifest.files if group_of(entry.path) == name]

    def _check(self, entries: Sequence[FileEntry], *, again: bool = False) -> None:
        verify_files(self.path, [one for one in entries if again or one.path not in self._verified])
        self.trust(entries)

    def _lacks(self, file: str) -> CheckpointError:
        there = ", ".join(entry.path for entry in self.manifest.files)
        message = f"checkpoint {self.path.name} has no {file}; there are: {there}"
        return CheckpointError(message, slug="no-such-part", where=str(self.path))

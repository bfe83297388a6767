"""Hidden states of a split's features on disk: made once by the frozen beginning of a model, read through memory maps.

An entry is a folder `<cache>/prefix/<key>/` with `meta.json`, which says what it is, and segments
`<number>-<digest>.hidden`: the states of some features end to end, (tokens, width), without padding. Which features a
segment holds, and with which others one was computed, is a function of the lengths of the split's features alone, so
the values of a row never depend on who computed them when. A segment appears whole by a rename and carries its digest
in its name: a build that was killed goes on from the segments that are there, and a damaged one is named and computed
again. A lock of the kernel lets one process compute what others wait for. Letters: R rows, L tokens, D width.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from chainft import __version__
from chainft.data.cache import lock_path, temporary_name
from chainft.data.entry import META, Writer, flush_folder, mark_used, remove_orphans
from chainft.data.prefix_layout import Layout
from chainft.errors import StorageError

logger = logging.getLogger(__name__)

FORMAT = 1
SUFFIX = ".hidden"
_DIGEST = 40
_WAIT_SECONDS = 0.2

StorageType = Literal["float32", "bfloat16", "float16"]
_AS_INTEGERS = {
    "float32": (np.int32, torch.int32),
    "bfloat16": (np.int16, torch.int16),
    "float16": (np.int16, torch.int16),
}
"""The bits as NumPy and torch both know them: NumPy has no bfloat16."""

Compute = Callable[[np.ndarray], Tensor]
"""From the rows of a chunk to their states end to end, (tokens, D), on the CPU."""
Tell = Callable[[int, int], None]
"""Receives how many tokens are done, and how many there are; may raise to stop."""


@dataclass(frozen=True)
class Shape:
    """What a state is: its width and the types in which it is kept and was computed."""

    width: int
    stored: StorageType
    computed: str
    """Name of the torch type that readers get."""

    @property
    def token_bytes(self) -> int:
        return self.width * np.dtype(_AS_INTEGERS[self.stored][0]).itemsize


class PrefixStore:
    """The hidden states of every row of a split, memory-mapped."""

    def __init__(self, layout: Layout, shape: Shape, files: Sequence[Path]) -> None:
        """`files`: one for each segment."""
        self.layout = layout
        self.shape = shape
        integers = _AS_INTEGERS[shape.stored][0]
        self._maps = [np.asarray(np.memmap(file, integers, "r")).reshape(-1, shape.width) for file in files]

    def padded(self, rows: Sequence[int]) -> Tensor:
        """(R, L, D) states of `rows`, zeros after the end of each; L is the longest."""
        lengths = self.layout.lengths[list(rows)]
        bits = torch.empty(len(rows), int(lengths.max()), self.shape.width, dtype=_AS_INTEGERS[self.shape.stored][1])
        values = bits.numpy()
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            start = self.layout.start_of[row]
            values[place, :length] = self._maps[self.layout.segment_of[row]][start : start + length]
            values[place, length:] = 0
        return self._as_computed(bits)

    def end_to_end(self, rows: Sequence[int]) -> Tensor:
        """(tokens, D) states of `rows`, one after the other."""
        lengths = self.layout.lengths[list(rows)]
        ends = np.cumsum(lengths)
        bits = torch.empty(int(ends[-1]), self.shape.width, dtype=_AS_INTEGERS[self.shape.stored][1])
        values = bits.numpy()
        for row, length, end in zip(rows, lengths, ends, strict=True):
            start = self.layout.start_of[row]
            values[end - length : end] = self._maps[self.layout.segment_of[row]][start : start + length]
        return self._as_computed(bits)

    def _as_computed(self, bits: Tensor) -> Tensor:
        return bits.view(getattr(torch, self.shape.stored)).to(getattr(torch, self.shape.computed))


@dataclass(frozen=True)
class PrefixEntry:
    """A place in the cache and what belongs there."""

    folder: Path
    layout: Layout
    shape: Shape
    about: Mapping[str, str]
    """Facts for people, such as the class of the model."""

    @property
    def bytes(self) -> int:
        """Size of the whole entry."""
        return sum(self.layout.tokens) * self.shape.token_bytes

    @property
    def missing_bytes(self) -> int:
        """Size of the segments that are not there, by name."""
        there = present(self.folder)
        return sum(
            tokens * self.shape.token_bytes for number, tokens in enumerate(self.layout.tokens) if number not in there
        )

    def open(self, compute: Compute, *, tell: Tell) -> PrefixStore:
        """The store; computes what is missing or damaged. Raises StorageError where it cannot be written."""
        try:
            files = self._verified(range(len(self.layout.tokens)))
            if len(files) < len(self.layout.tokens):
                self.folder.mkdir(parents=True, exist_ok=True)
                remove_orphans(self.folder.parent)
                with _locked(self.folder, lambda: tell(self._tokens_of(present(self.folder)), self._all)):
                    files |= self._complete(files, compute, tell)
            elif not (self.folder / META).is_file():
                self._write_meta()
        except OSError as error:
            raise self._cannot_write(error) from error
        mark_used(self.folder)
        return PrefixStore(self.layout, self.shape, [files[number] for number in sorted(files)])

    @property
    def _all(self) -> int:
        return sum(self.layout.tokens)

    def _tokens_of(self, numbers: Iterable[int]) -> int:
        return sum(self.layout.tokens[number] for number in numbers if number < len(self.layout.tokens))

    def _complete(self, there: Mapping[int, Path], compute: Compute, tell: Tell) -> dict[int, Path]:
        """Compute every segment but those that are `there` or that another process has made meanwhile."""
        for orphan in self.folder.glob(".*.tmp-*"):
            orphan.unlink()
        self._write_meta()
        files = self._verified(number for number in range(len(self.layout.tokens)) if number not in there)
        done = self._tokens_of([*there, *files])
        for number in range(len(self.layout.tokens)):
            if number not in there and number not in files:
                files[number] = self._write(number, compute, partial(self._tell_more, tell, done))
                done += self.layout.tokens[number]
        tell(self._all, self._all)
        return files

    def _tell_more(self, tell: Tell, done: int, more: int) -> None:
        tell(done + more, self._all)

    def _write(self, number: int, compute: Compute, tell: Callable[[int], None]) -> Path:
        """Compute one segment."""
        temporary = temporary_name(self.folder / f"{number:05}")
        done = 0
        with ExitStack() as stack:
            stack.callback(temporary.unlink, missing_ok=True)  # Where it ends before its time.
            writer = Writer(temporary, _AS_INTEGERS[self.shape.stored][0], stack)
            for chunk in self.layout.segments[number]:
                tell(done)
                writer.append(self._checked(compute(chunk), chunk).view(_AS_INTEGERS[self.shape.stored][1]).numpy())
                done += int(self.layout.lengths[chunk].sum())
            digest = writer.close()["sha256"]
            file = self.folder / f"{number:05}-{digest[:_DIGEST]}{SUFFIX}"
            temporary.rename(file)
        flush_folder(self.folder)
        return file

    def _checked(self, states: Tensor, rows: np.ndarray) -> Tensor:
        """(tokens, D) in the type of the store. Raises StorageError for what that type cannot hold."""
        stored = states.to(getattr(torch, self.shape.stored)).contiguous()
        assert stored.shape == (int(self.layout.lengths[rows].sum()), self.shape.width)
        if not bool(stored.isfinite().all()) and bool(states.isfinite().all()):
            raise StorageError(
                f"hidden states of up to {float(states.abs().max()):.3g} do not fit into {self.shape.stored}",
                slug="overflow",
                key="cache.dtype",
                help="set cache.dtype=bfloat16 or float32",
            )
        return stored

    def _verified(self, numbers: Iterable[int]) -> dict[int, Path]:
        """The whole segments among `numbers`; a damaged one is named and removed."""
        there = present(self.folder)
        files: dict[int, Path] = {}
        for number in numbers:
            for file in there.get(number, ()):
                if self._is_whole(file, number):
                    files[number] = file
                    break
                logger.warning(
                    "cached outputs of frozen stages %s/%s are damaged: computing them again",
                    self.folder.name[:12],
                    file.name,
                )
                file.unlink(missing_ok=True)
        return files

    def _is_whole(self, file: Path, number: int) -> bool:
        if file.stat().st_size != self.layout.tokens[number] * self.shape.token_bytes:
            return False
        with file.open("rb") as stream:
            return file.stem.partition("-")[2] == hashlib.file_digest(stream, "sha256").hexdigest()[:_DIGEST]

    def _write_meta(self) -> None:
        """Say what the entry is; the same text from every process."""
        meta = {
            "format": FORMAT,
            "chainft": __version__,
            "examples": len(self.layout.lengths),
            "bytes": self.bytes,
            "segments": len(self.layout.tokens),
            **asdict(self.shape),
            **self.about,
        }
        temporary = temporary_name(self.folder / META)
        temporary.write_text(json.dumps(meta, indent=1), encoding="utf-8")
        temporary.rename(self.folder / META)

    def _cannot_write(self, error: OSError) -> StorageError:
        there = next((one for one in (self.folder, *self.folder.parents) if one.is_dir()), Path("/"))
        return StorageError(
            f"cannot write outputs of frozen stages below {str(self.folder)!r}: {error.strerror} "
            f"({self.missing_bytes:,} bytes are to be written, {shutil.disk_usage(there).free:,} are free)",
            slug="cache-unwritable",
            where=str(self.folder),
            key="data.cache_dir",
            help="free space there, choose another folder by data.cache_dir=..., or set cache.prefix=false",
        )


def present(folder: Path) -> dict[int, list[Path]]:
    """The segments of an entry by number, as their names say; normally one file each."""
    found: dict[int, list[Path]] = {}
    for file in sorted(folder.glob(f"[0-9]*-*{SUFFIX}")):
        number = file.name.partition("-")[0]
        if number.isdecimal():
            found.setdefault(int(number), []).append(file)
    return found


@contextmanager
def _locked(folder: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Hold the entry; calls `wait` while another process does. The kernel ends a lock with its process."""
    with lock_path(folder).open("wb") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                wait()
                time.sleep(_WAIT_SECONDS)
        yield

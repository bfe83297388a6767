"""Where tensors rest that are not in use: the CPU's memory beside a GPU, or memory-mapped files.

A tensor that rests in a file is an ordinary CPU tensor whose memory is the file: to read it is to load it, to change it
is to store it. `release` takes its pages out of the process again, `expect` has the system read them ahead. The files
have no name, so that nothing is left of them when the process ends, in whatever way.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Protocol

import torch
from torch import Tensor

from chainft.errors import StorageError

_SEGMENT = 64 << 20
"""Bytes of a file that holds several tensors: a process may have some thousand files open, and models more tensors."""
_PAGE = mmap.ALLOCATIONGRANULARITY


class Resting(Protocol):
    """A place for tensors."""

    def empty_like(self, tensor: Tensor) -> Tensor:
        """Memory there for a dense CPU tensor of the same shape and type."""
        ...

    def holds(self, tensor: Tensor) -> bool:
        """Whether a CPU tensor is there."""
        ...

    def release(self, tensors: Iterable[Tensor]) -> None:
        """Tensors of this place are not needed for a while; their values stay."""
        ...

    def release_all(self) -> None:
        """None of its tensors is needed for a while."""
        ...

    def expect(self, tensors: Iterable[Tensor]) -> None:
        """Tensors of this place are needed soon."""
        ...

    def settle(self) -> None:
        """A stage is done: give what it used beside back to the system."""
        ...

    def clear(self) -> None:
        """Give all memory free for new tensors; the tensors that had it must not be used any more."""
        ...


class InMemory:
    """The CPU's memory, page-locked, so that a GPU copies while it computes."""

    def empty_like(self, tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=torch.cuda.is_available())

    def holds(self, tensor: Tensor) -> bool:
        return True

    def release(self, tensors: Iterable[Tensor]) -> None:
        pass

    def release_all(self) -> None:
        pass

    def expect(self, tensors: Iterable[Tensor]) -> None:
        pass

    def settle(self) -> None:
        pass

    def clear(self) -> None:
        pass


class OnDisk:
    """Files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments: list[_Segment] = []
        # glibc keeps freed memory between what is in use, and aligned blocks of the same size do not fit in again: after
        # some stages it would hold as much as the whole model has.
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None

    def empty_like(self, tensor: Tensor) -> Tensor:
        """Raises StorageError where the disk has no room."""
        size = tensor.numel() * tensor.element_size()
        if not size:
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        segment = next((one for one in self._segments if one.free >= size), None)
        if segment is None:
            segment = self._new(max(size, _SEGMENT))
        return segment.take(size, tensor)

    def holds(self, tensor: Tensor) -> bool:
        return any(one.holds(tensor) for one in self._segments)

    def release(self, tensors: Iterable[Tensor]) -> None:
        self._advise(tensors, getattr(mmap, "MADV_DONTNEED", None))

    def release_all(self) -> None:
        advice: int | None = getattr(mmap, "MADV_DONTNEED", None)
        for segment in self._segments:
            if advice is not None:
                segment.map.madvise(advice)

    def expect(self, tensors: Iterable[Tensor]) -> None:
        self._advise(tensors, getattr(mmap, "MADV_WILLNEED", None))

    def settle(self) -> None:
        if self._trim is not None:
            self._trim(0)

    def clear(self) -> None:
        for segment in self._segments:
            segment.used = 0

    def _advise(self, tensors: Iterable[Tensor], advice: int | None) -> None:
        if advice is None:  # A system without it takes pages when it lacks memory.
            return
        for tensor in tensors:
            size = tensor.numel() * tensor.element_size()
            segment = next((one for one in self._segments if one.holds(tensor)), None) if size else None
            if segment is not None:
                segment.map.madvise(advice, tensor.data_ptr() - segment.start, size)

    def _new(self, size: int) -> _Segment:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                _reserve(file, size)
                segment = _Segment(mmap.mmap(file.fileno(), size))
        except OSError as error:
            raise StorageError(
                f"cannot keep {size >> 20} MiB more of the model in {str(self.folder)!r}: {error.strerror}",
                slug="write-failed",
                key="launch.offload_dir",
                help="free disk space, or give launch.offload_dir=<a folder on another disk>",
            ) from error
        self._segments.append(segment)
        return segment


class _Segment:
    """A file in memory, and how much of it is taken."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self.map = mapped
        self.used = 0
        self._whole = torch.frombuffer(mapped, dtype=torch.uint8)
        self.start = self._whole.data_ptr()

    @property
    def free(self) -> int:
        return len(self.map) - self.used

    def take(self, size: int, like: Tensor) -> Tensor:
        """Whole pages, so that tensors are released apart."""
        start = self.used
        self.used = min(len(self.map), start + -(-size // _PAGE) * _PAGE)
        return torch.frombuffer(self.map, dtype=like.dtype, count=like.numel(), offset=start).view(like.shape)

    def holds(self, tensor: Tensor) -> bool:
        return self.start <= tensor.data_ptr() < self.start + len(self.map)


def keep(place: Resting, tensor: Tensor) -> Tensor:
    """A copy of the tensor in a place, released."""
    there = place.empty_like(tensor)
    there.copy_(tensor.detach())
    place.release([there])
    return there


def portions(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Numbers of the tensors, in portions that are no larger than the largest one of them."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    found: list[list[int]] = []
    room = 0
    for number, size in enumerate(sizes):
        if size > room or not found:
            found.append([])
            room = max(sizes)
        found[-1].append(number)
        room -= size
    return found


def _reserve(file: IO[bytes], size: int) -> None:
    """Blocks on the disk for all bytes: a write to a mapped file that finds none would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    zeros = bytes(1 << 20)
    for start in range(0, size, len(zeros)):
        file.write(zeros[: size - start])
    file.flush()

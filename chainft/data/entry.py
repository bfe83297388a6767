"""A folder of binary files that appears whole or not at all and says when it is damaged: an entry of a cache.

Its `meta.json` has the size and SHA-256 of every file. It is written under a temporary name and renamed; of two
processes that write the same one, the first wins.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

logger = logging.getLogger(__name__)

META = "meta.json"
_BLOCK = 1 << 16
"""Entries that are written at once."""


class Writer:
    """Appends arrays to a file, a block at a time, and hashes what it writes."""

    def __init__(self, path: Path, dtype: Any, stack: ExitStack) -> None:
        self.stream: BinaryIO = stack.enter_context(path.open("wb"))
        self.dtype = np.dtype(dtype)
        self.digest = hashlib.sha256()
        self.size = 0
        self.pending: list[np.ndarray] = []
        self.num_pending = 0

    def append(self, array: np.ndarray) -> None:
        self.pending.append(array)
        self.num_pending += len(array)
        if self.num_pending >= _BLOCK or len(self.pending) >= _BLOCK:
            self.flush()

    def flush(self) -> None:
        if self.pending:
            data = np.concatenate(self.pending).astype(self.dtype, copy=False).tobytes()
            self.stream.write(data)
            self.digest.update(data)
            self.size += len(data)
            self.pending, self.num_pending = [], 0

    def close(self) -> dict[str, Any]:
        """Make it durable; size and digest for `meta.json`."""
        self.flush()
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        return {"bytes": self.size, "sha256": self.digest.hexdigest()}


class Starts:
    """Where things begin that are written end to end: one number more than there are things."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.writer = Writer(path, np.int64, stack)
        self.position = 0
        self.pending = [0]

    def append(self, length: int) -> None:
        self.position += length
        self.pending.append(self.position)
        if len(self.pending) >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        self.writer.append(np.array(self.pending, dtype=np.int64))
        self.pending = []

    def close(self) -> dict[str, Any]:
        self._flush()
        return self.writer.close()


def write_meta(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write `meta.json` and make the folder durable."""
    with (folder / META).open("w", encoding="utf-8") as stream:
        json.dump(meta, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    flush_folder(folder)


def publish(temporary: Path, folder: Path) -> None:
    """Give the entry its name; an entry that another process finished first stays."""
    try:
        temporary.rename(folder)
    except OSError:
        if read_whole(folder) is not None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    flush_folder(folder.parent)


def remove_orphans(root: Path) -> None:
    """Remove what processes of this machine left that ended while writing."""
    for path in root.glob(".*.tmp-*"):
        host, _, rest = path.name.partition(".tmp-")[2].rpartition("-")[0].rpartition("-")
        if host == socket.gethostname() and rest.isdecimal() and not _runs(int(rest)):
            shutil.rmtree(path, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # It runs, under another user.
        return True
    return True


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def read_whole(folder: Path) -> dict[str, Any] | None:
    """The entry's meta if every file is there with its size and digest; a damaged entry is removed."""
    if not folder.is_dir():
        return None
    try:
        meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
        damaged = [name for name, facts in meta["files"].items() if not _is_whole(folder / name, facts)]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        damaged = [META]
    if not damaged:
        return meta
    logger.warning("tokenised features %s are damaged (%s): making them again", folder.name[:12], ", ".join(damaged))
    shutil.rmtree(folder, ignore_errors=True)
    return None


def _is_whole(path: Path, facts: Mapping[str, Any]) -> bool:
    if not path.is_file() or path.stat().st_size != facts["bytes"]:
        return False
    with path.open("rb") as stream:
        return bool(hashlib.file_digest(stream, "sha256").hexdigest() == facts["sha256"])


def mark_used(folder: Path) -> None:
    """Let `chainft cache` know that the entry was used now: the time of its `meta.json`."""
    try:
        (folder / META).touch()
    except OSError as error:  # Of a cache that may only be read.
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*"))

"""Writing so that it lasts: flushed to the disk, replaced in one piece, refused in time when space is short.

Every failure of the operating system becomes a StorageError that names the file, the bytes needed and the bytes free.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from chainft.errors import StorageError

SAFETY = 1.1
"""Free space that is asked for, as a multiple of the bytes to be written."""


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and flush it to the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def replace_durably(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, whenever the process or the machine ends."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    write_durably(temporary, content)
    temporary.replace(path)
    flush_folder(path.parent)


def flush_file(path: Path) -> None:
    """Flush to the disk what another library has written."""
    _flush(path, os.O_RDONLY)


def flush_folder(path: Path) -> None:
    """Flush the entries of a folder (names made, renamed and removed) to the disk."""
    try:
        _flush(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # Some network file systems cannot flush a folder.
            raise


def replace_link(link: Path, target: str) -> None:
    """Point the relative symbolic link at `target`, a name beside it, in one step."""
    read_link(link)
    temporary = link.with_name(f".{link.name}.tmp-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    flush_folder(link.parent)


def read_link(link: Path) -> str | None:
    """What a symbolic link says, or None where there is none. Raises StorageError where something else has its name."""
    if link.is_symlink():
        return str(link.readlink())
    if link.exists():
        raise StorageError(
            f"{link.name!r} is not a link: the run folder was probably copied with links followed",
            slug="not-a-link",
            where=str(link),
            help=f"remove {str(link)!r} and make it a link to the step folder that it is a copy of",
        )
    return None


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise StorageError where the file system of `folder` has no room for `num_bytes` and a tenth more."""
    needed = int(num_bytes * SAFETY)
    free = free_bytes(folder)
    if free is not None and free < needed:
        raise StorageError(
            f"not enough disk space: {format_bytes(needed)} needed, {format_bytes(free)} free",
            slug="disk-full",
            where=str(folder),
            help="free some space, lower checkpoint.max_checkpoints, or put the runs elsewhere: runs_dir=...",
        )


def free_bytes(folder: Path) -> int | None:
    """Free bytes of the file system that holds `folder`, or None where that cannot be told."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def storage_error(path: Path, reason: str, *, num_bytes: int) -> StorageError:
    """The error for a file that could not be written: why, with the bytes needed and free."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    free = free_bytes(existing)
    return StorageError(
        f"cannot write {path.name}: {reason}; {format_bytes(num_bytes)} needed, "
        f"{'unknown' if free is None else format_bytes(free)} free",
        slug="write-failed",
        where=str(path),
        help="free space or permissions, then go on from the checkpoint before by resume=true",
    )


def format_bytes(count: int) -> str:
    """A size for people, in decimal units.

    >>> format_bytes(512), format_bytes(90_900_000)
    ('512 bytes', '90.9 MB')
    """
    if count < 1000:
        return f"{count} bytes"
    size, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if size >= 1000:
            size, unit = size / 1000, larger
    return f"{size:.1f} {unit}"


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The files of one checkpoint, from first byte to COMMIT, and their removal; `checkpoint` decides when.

Every failure of the system leaves here as an OSError with the name of the file; `failed_save` makes it readable.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from chainft.errors import StorageError
from chainft.train.durable import flush_file, flush_folder, storage_error, write_durably
from chainft.train.faults import fault_point
from chainft.train.manifest import COMMIT, MANIFEST, FileEntry, Manifest, commit, digest_of, write_manifest

if TYPE_CHECKING:
    from chainft.train.tensor_file import Packed

logger = logging.getLogger(__name__)

STATE = "state.json"
TEMPORARY = re.compile(r"\.(step-\d+|last|best|COMMIT)\.tmp-\d+")
"""Names of what is being written; whatever has one when a run starts was left behind by a killed process."""


def write_parts(
    folder: Path, packed: Mapping[str, Packed], step: int, *, part: tuple[int, int] = (0, 1)
) -> Iterator[FileEntry]:
    """Write and flush a file for each group of tensors, `part` (number, count) of it; yields the manifest's entries.

    A file is hashed, which takes longer than writing it, while the next one is written and hashed.
    """
    from chainft.train.tensor_file import write_tensors

    number, count = part
    suffix = f"-{number + 1:05d}-of-{count:05d}" if count > 1 else ""
    digests: dict[Path, Future[str]] = {}
    with ThreadPoolExecutor(max(1, len(packed)), thread_name_prefix="digests") as threads:
        for name, group in packed.items():
            path = folder / f"{name}{suffix}.safetensors"
            with _naming(path):
                fault_point(f"save.{name}", step=step)
                write_tensors(path, group)
                flush_file(path)
            digests[path] = _hash(threads, path)
    for group, (path, digest) in zip(packed.values(), digests.items(), strict=True):
        with _naming(path):
            yield FileEntry(path.name, path.stat().st_size, digest.result(), group.summary(), dict(group.aliases))


def _hash(threads: ThreadPoolExecutor, path: Path) -> Future[str]:
    try:
        return threads.submit(digest_of, path)
    except RuntimeError:  # No thread can be started: a limit of the system, or the process is about to end.
        found: Future[str] = Future()
        found.set_result(digest_of(path))
        return found


def write_state(folder: Path, text: bytes, step: int) -> FileEntry:
    """Write and flush everything that is not a tensor."""
    path = folder / STATE
    with _naming(path):
        fault_point("save.state", step=step)
        write_durably(path, text)
    return FileEntry(path.name, len(text), digest_of(path))


def seal(temporary: Path, final: Path, manifest: Manifest) -> None:
    """Write the manifest, give the folder its name, and commit it: the order is what makes it safe."""
    with _naming(temporary / MANIFEST):
        fault_point("save.manifest", step=manifest.step)
        write_manifest(temporary, manifest)
        flush_folder(temporary)
    with _naming(final):
        fault_point("save.rename", step=manifest.step)
        temporary.rename(final)
    with _naming(final / COMMIT):
        fault_point("save.commit", step=manifest.step)
        commit(final)
        flush_folder(final.parent)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint's own files: COMMIT first, so that it stops counting; MANIFEST.json, its mark, last.

    Files that someone else put there stay, and so does their folder.
    """
    try:
        (folder / COMMIT).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.suffix == ".safetensors" or path.name == STATE or TEMPORARY.fullmatch(path.name):
                path.unlink()
        (folder / MANIFEST).unlink(missing_ok=True)
        if any(folder.iterdir()):
            logger.warning("kept the folder %s of a removed checkpoint: it has files that are not chainft's", folder)
        else:
            folder.rmdir()
    except OSError as error:
        logger.warning("cannot remove the old checkpoint %s: %s", folder, error)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let every OSError say which file it is about."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def failed_save(error: OSError, final: Path, num_bytes: int) -> StorageError:
    """The error of a save, about the file under the name that it would have got."""
    failed = Path(str(error.filename)) if error.filename else final
    if TEMPORARY.fullmatch(failed.parent.name):
        failed = final / failed.name
    return storage_error(failed, error.strerror or str(error), num_bytes=num_bytes)

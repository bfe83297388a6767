"""What a checkpoint folder must hold, to the byte: `MANIFEST.json`, and `COMMIT` that makes it count.

`MANIFEST.json` lists every file with size and sha256, the tensors in it, and facts about the run. `COMMIT` holds the
sha256 of the manifest and is written last, so a folder without it is one that was never finished, and any later
change of any byte is noticed: a bit flip in weights loads without an error otherwise.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chainft import __version__
from chainft.errors import CheckpointError
from chainft.train.durable import replace_durably, write_durably

JSON = Mapping[str, "JSON"] | Sequence["JSON"] | str | int | float | bool | None
FORMAT = 2
"""Version of the folder's layout; a reader refuses a newer one. Since 2, a group of tensors may lie in several files."""
MANIFEST, COMMIT = "MANIFEST.json", "COMMIT"
_TENSORS = re.compile(r"(?P<group>.+?)(-\d+-of-\d+)?\.safetensors")


@dataclass(frozen=True)
class FileEntry:
    """One file of the checkpoint."""

    path: str
    """Its plain name inside the folder."""
    size: int
    sha256: str
    tensors: Mapping[str, str] = field(default_factory=dict)
    """For each stored tensor its dtype and shape, for people: `float32 [384, 1536]`."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Names of tied tensors, each with the name under which its values are stored."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is and holds."""

    step: int
    sequence: int
    """Counts the checkpoints of the folder in the order in which they were saved; the highest is the newest."""
    facts: Mapping[str, Any]
    files: tuple[FileEntry, ...]
    format: int = 1
    chainft: str = __version__

    def entry(self, path: str) -> FileEntry | None:
        """The entry of a file, or None."""
        return next((entry for entry in self.files if entry.path == path), None)


def group_of(path: str) -> str | None:
    """Name of the group of tensors of which a file has all or a part; None: it is no file of tensors.

    >>> group_of("model.safetensors"), group_of("model-00002-of-00004.safetensors"), group_of("state.json")
    ('model', 'model', None)
    """
    found = _TENSORS.fullmatch(path)
    return found["group"] if found else None


def format_of(files: Sequence[FileEntry]) -> int:
    """The oldest format that a checkpoint of these files has."""
    groups = [group for entry in files if (group := group_of(entry.path))]
    return FORMAT if len({*groups}) < len(groups) else 1


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `MANIFEST.json`."""
    write_durably(folder / MANIFEST, json.dumps(asdict(manifest), indent=1, ensure_ascii=False).encode())


def commit(folder: Path) -> None:
    """Write `COMMIT`, whole or not at all: from then on the checkpoint counts."""
    replace_durably(folder / COMMIT, _seal((folder / MANIFEST).read_bytes()))


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder is ours: a checkpoint, whole or not, and not something that a person put there."""
    return (folder / MANIFEST).is_file() or (folder / COMMIT).is_file()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a committed checkpoint.

    Raises CheckpointError with the slug `uncommitted` where COMMIT is missing, `damaged` where the manifest is not the
    one that was committed, `newer-format` where a later chainft wrote it.
    """
    content = _read(folder, MANIFEST)
    if not (folder / COMMIT).is_file():
        raise CheckpointError(
            f"checkpoint {folder.name} was never finished: its file {COMMIT} is missing",
            slug="uncommitted",
            where=str(folder / COMMIT),
            help="use the checkpoint before it",
        )
    sealed, expected = _read(folder, COMMIT), _seal(content)
    if sealed != expected:
        raise damaged(folder / MANIFEST, f"its sha256 is {expected.decode().strip()}, {COMMIT} says {_shown(sealed)}")
    return _parse(folder, json.loads(content))


def verify_files(folder: Path, entries: Sequence[FileEntry]) -> None:
    """Compare files with their entries: all sizes first, which is quick, then all digests. Raises CheckpointError."""
    for entry in entries:
        path = folder / entry.path
        if not path.is_file():
            raise damaged(path, f"it is missing; {_expected(entry)}")
        if path.stat().st_size != entry.size:
            found = f"it has {path.stat().st_size} bytes with sha256 {digest_of(path)}"
            raise damaged(path, f"{found}, {_expected(entry)}")
    for entry in entries:
        found = digest_of(folder / entry.path)
        if found != entry.sha256:
            raise damaged(folder / entry.path, f"its sha256 is {found}, {_expected(entry)}")


def digest_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def damaged(path: Path, reason: str) -> CheckpointError:
    """The error for a file that is not what was saved."""
    return CheckpointError(
        f"{path.name} of checkpoint {path.parent.name} is damaged: {reason}",
        slug="damaged",
        where=str(path),
        help="use another checkpoint, or restore this file from a backup",
    )


def _parse(folder: Path, content: Any) -> Manifest:
    """The manifest from its JSON, which the seal has shown to be the one that was written."""
    if not isinstance(content, dict):
        raise damaged(folder / MANIFEST, "it is not a JSON object")
    version, maker = content.get("format"), content.get("chainft")
    if isinstance(version, int) and version > FORMAT:
        raise CheckpointError(
            f"checkpoint {folder.name} was made by chainft {maker} (format {version}), "
            f"you have chainft {__version__} (format {FORMAT})",
            slug="newer-format",
            where=str(folder),
            help=f"install that version: pip install 'chainft>={maker}'",
        )
    try:
        files = tuple(FileEntry(**entry) for entry in content["files"])
        manifest = Manifest(**{**content, "files": files})
    except (KeyError, TypeError) as error:
        raise damaged(folder / MANIFEST, f"it is not a manifest of format {FORMAT} ({error})") from error
    for entry in files:
        if Path(entry.path).name != entry.path:
            raise damaged(folder / MANIFEST, f"it names a file outside its folder: {entry.path!r}")
    return manifest


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise damaged(folder / name, "it is missing") from error
    except OSError as error:
        raise damaged(folder / name, f"it cannot be read: {error.strerror}") from error


def _seal(manifest: bytes) -> bytes:
    return hashlib.sha256(manifest).hexdigest().encode() + b"\n"


def _shown(sealed: bytes) -> str:
    return repr(sealed[:80].decode("ascii", "backslashreplace").strip())


def _expected(entry: FileEntry) -> str:
    return f"the manifest says {entry.size} bytes with sha256 {entry.sha256}"

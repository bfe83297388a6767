"""What lies in the cache folder: entries of the tokenised store and of the prefix cache, to list and to remove.

Only folders that chainft makes are seen: named by a digest, holding nothing but files of ours. Whatever else lies there
is neither listed nor touched.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["store", "prefix"]
_FILES: Mapping[Kind, re.Pattern[str]] = {
    "store": re.compile(r"meta\.json|\w+\.(values|starts)"),
    "prefix": re.compile(r"meta\.json|\d+-[0-9a-f]{40}\.hidden|\.\d+\.tmp-.*|\.meta\.json\.tmp-.*"),
}
"""Names of the files of an entry."""
_KEY = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class CacheEntry:
    """A folder of the cache."""

    kind: Kind
    path: Path
    bytes: int
    examples: int | None
    """Examples of a tokenised split, or rows of kept outputs; None where the entry's `meta.json` does not say."""
    about: str
    """What the entry holds, for people."""
    made: float
    used: float
    """Seconds since 1970: when it was begun, and when it was last opened."""

    @property
    def key(self) -> str:
        return self.path.name


def default_cache_dir() -> Path:
    """`$CHAINFT_CACHE`, else `~/.cache/chainft`."""
    configured = os.environ.get("CHAINFT_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "chainft"


def cache_entries(cache: Path) -> list[CacheEntry]:
    """All entries, last used first."""
    kinds: tuple[Kind, ...] = ("store", "prefix")
    found = [_entry(kind, path) for kind in kinds for path in _folders(kind, cache / kind)]
    return sorted(found, key=lambda one: (-one.used, one.key))


def remove_entry(entry: CacheEntry) -> bool:
    """Remove an entry; False where a process computes it at this moment. One that reads it goes on reading."""
    lock = lock_path(entry.path)
    if entry.kind == "store":
        _remove(entry)
        return True
    with lock.open("wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        _remove(entry)
        lock.unlink(missing_ok=True)
    return True


def lock_path(folder: Path) -> Path:
    """The file by which the process that computes an entry keeps others waiting."""
    return folder.with_name(f".{folder.name}.lock")


def temporary_name(folder: Path) -> Path:
    """A name beside `folder` that tells who writes there, so that what the dead left can be removed."""
    return folder.with_name(f".{folder.name}.tmp-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _folders(kind: Kind, root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if _KEY.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            inside = list(path.iterdir())
            if all(_FILES[kind].fullmatch(one.name) and not one.is_symlink() and not one.is_dir() for one in inside):
                yield path


def _entry(kind: Kind, path: Path) -> CacheEntry:
    found = ((one.name, _stat(one)) for one in path.iterdir())
    facts = {name: fact for name, fact in found if fact is not None}
    times = [fact.st_mtime for name, fact in facts.items() if name != "meta.json"] or [path.stat().st_mtime]
    used = facts["meta.json"].st_mtime if "meta.json" in facts else max(times)
    meta = _meta(path)
    examples = meta.get("examples")
    size = sum(fact.st_size for fact in facts.values())
    return CacheEntry(
        kind, path, size, examples if isinstance(examples, int) else None, _about(kind, meta), min(*times, used), used
    )


def _stat(path: Path) -> os.stat_result | None:
    """None for a file that a writer has given another name meanwhile."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _meta(path: Path) -> Mapping[str, Any]:
    try:
        meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):  # Unfinished or damaged: listed all the same.
        return {}
    return meta if isinstance(meta, dict) else {}


def _about(kind: Kind, meta: Mapping[str, Any]) -> str:
    if kind == "prefix":
        return ", ".join(str(meta[name]) for name in ("model", "stored", "blocks") if name in meta)
    columns = meta.get("columns")
    return ", ".join(map(str, columns)) if isinstance(columns, dict) else ""


def _remove(entry: CacheEntry) -> None:
    """First the name, so that nobody opens half an entry; file by file, so that nothing else can go."""
    temporary = temporary_name(entry.path)
    entry.path.rename(temporary)
    for file in temporary.iterdir():
        if _FILES[entry.kind].fullmatch(file.name):
            file.unlink()
    temporary.rmdir()

"""`chainft cache ls|clear`: what is kept on disk for later runs, and removing it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chainft.cli.flags import HELP, Flag, Given, flag_lines, split
from chainft.data.cache import CacheEntry, cache_entries, default_cache_dir, remove_entry
from chainft.errors import ConfigError, StorageError, did_you_mean
from chainft.report.words import plural, printable, size

FLAGS = (
    HELP,
    Flag(("--json",), "print one JSON object"),
    Flag(("--older-than",), "only what was not used for so many days", metavar="DAYS"),
    Flag(("--dir",), "the cache folder (default $CHAINFT_CACHE, else ~/.cache/chainft)", metavar="FOLDER"),
)
ACTIONS = ("ls", "clear")
_SHOWN = 12
"""Characters of a key that are shown; as many as tell entries apart can be given."""
_DAY = 86_400


def run(arguments: list[str]) -> int:
    """List or remove. Raises ConfigError for an unknown action or key, StorageError for what cannot be removed."""
    given = split(arguments, FLAGS)
    if given.has("help") or not given.words:
        print(_help(), end="")
        return 0
    action, *keys = given.words
    if action not in ACTIONS:
        raise ConfigError(
            f"chainft cache cannot {action!r}; it can: {', '.join(ACTIONS)}",
            slug="unknown-command",
            where=action,
            help=did_you_mean(action, ACTIONS),
        )
    cache = Path(given.flags["dir"]) if given.has("dir") else default_cache_dir()
    chosen = _older(_named(cache_entries(cache), keys), given)
    removed = [_removed(entry) for entry in chosen] if action == "clear" else None
    if given.has("json"):
        print(json.dumps(_facts(cache, chosen, removed), indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(cache, chosen) if removed is None else _told(chosen, removed)))
    return 0


def _named(entries: Sequence[CacheEntry], keys: Sequence[str]) -> list[CacheEntry]:
    """The entries whose keys begin so; all where none is given."""
    if not keys:
        return list(entries)
    found: list[CacheEntry] = []
    for key in keys:
        matching = [entry for entry in entries if entry.key.startswith(key)]
        if len(matching) != 1:
            shown = [entry.key[:_SHOWN] for entry in entries]
            several = f"{len(matching)} entries begin with {key!r}" if matching else f"no entry begins with {key!r}"
            help = "give more characters" if matching else did_you_mean(key, shown) or "see: chainft cache ls"
            raise ConfigError(several, slug="unknown-key", where=key, help=help)
        found += [entry for entry in matching if entry not in found]
    return found


def _older(entries: Sequence[CacheEntry], given: Given) -> list[CacheEntry]:
    if not given.has("older-than"):
        return list(entries)
    text = given.flags["older-than"]
    if not text.isdecimal():
        raise ConfigError(
            f"--older-than {text}: expected a whole number of days", slug="bad-flag", where=f"--older-than {text}"
        )
    limit = time.time() - int(text) * _DAY
    return [entry for entry in entries if entry.used <= limit]


def _removed(entry: CacheEntry) -> bool:
    try:
        return remove_entry(entry)
    except OSError as error:
        raise StorageError(
            f"cannot remove {str(entry.path)!r}: {error.strerror}", slug="cannot-remove", where=str(entry.path)
        ) from error


def _facts(cache: Path, entries: Sequence[CacheEntry], removed: Sequence[bool] | None) -> dict[str, Any]:
    def plain(entry: CacheEntry) -> dict[str, Any]:
        times = {name: _time(getattr(entry, name)) for name in ("made", "used")}
        return {**asdict(entry), "path": str(entry.path), "key": entry.key, **times}

    found = [plain(entry) for entry in entries]
    if removed is not None:
        found = [{**one, "removed": gone} for one, gone in zip(found, removed, strict=True)]
    return {"dir": str(cache), "bytes": sum(entry.bytes for entry in entries), "entries": found}


def _lines(cache: Path, entries: Sequence[CacheEntry]) -> Iterator[str]:
    total = size(sum(entry.bytes for entry in entries))
    yield f"{cache}: {plural(len(entries), 'entry', 'entries')}, {total}"
    if entries:
        yield f"{'kind':<8}{'key':<14}{'size':>10}{'examples':>10}  {'made':<18}{'last used':<18}what"
    for entry in entries:
        examples = "" if entry.examples is None else f"{entry.examples:,}"
        yield (
            f"{entry.kind:<8}{entry.key[:_SHOWN]:<14}{size(entry.bytes):>10}{examples:>10}  "
            f"{_time(entry.made)[:16].replace('T', ' '):<18}{_time(entry.used)[:16].replace('T', ' '):<18}"
            f"{printable(entry.about)}"
        )


def _told(entries: Sequence[CacheEntry], removed: Sequence[bool]) -> Iterator[str]:
    gone = [entry for entry, is_gone in zip(entries, removed, strict=True) if is_gone]
    yield f"removed {plural(len(gone), 'entry', 'entries')}, {size(sum(entry.bytes for entry in gone))}"
    for entry, is_gone in zip(entries, removed, strict=True):
        if not is_gone:
            yield f"kept {entry.key[:_SHOWN]}: a process computes it now"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def _help() -> str:
    lines = [
        "usage: chainft cache ls|clear [KEY ...] [flags]",
        "",
        "ls lists what is kept for later runs: tokenised examples (store) and outputs of frozen stages (prefix).",
        "clear removes it, all or the entries whose keys begin so; a later run makes again what it needs. What a",
        "process computes at the moment stays, and so does everything that chainft did not make.",
        "",
        "flags:",
        *flag_lines(FLAGS),
        "",
        "examples:",
        "  chainft cache ls",
        "  chainft cache clear --older-than 30",
        "  chainft cache clear 0e1f2a3b4c5d",
    ]
    return "\n".join(lines) + "\n"

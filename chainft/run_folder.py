"""The files of a run: where each lies, how the folder is made, and the lock that keeps two runs apart."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from chainft.errors import CheckpointError, ConfigError, ModelError, StorageError

STATE_FILE = "chainft.json"
"""In a model folder: what prediction needs besides the model."""


_OF_ONE_TRY = {
    "chain.json",
    "pipeline.json",
    "plan.json",
    "data_card.json",
    "rejected.jsonl",
    "errors.log",
    "stacks.txt",
}
_BEFORE_TRAINING = {"config.yaml", "overrides.yaml", "environment.json", "log.txt", ".lock", *_OF_ONE_TRY}


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run folder; makes none of them."""

    path: Path

    @property
    def config(self) -> Path:
        """`config.yaml`: every setting, resolved except for interpolations of the environment."""
        return self.path / "config.yaml"

    @property
    def overrides(self) -> Path:
        return self.path / "overrides.yaml"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def errors(self) -> Path:
        return self.path / "errors.log"

    @property
    def stacks(self) -> Path:
        """`stacks.txt`: what a process of several did when it crashed or hung."""
        return self.path / "stacks.txt"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    @property
    def results(self) -> Path:
        return self.path / "all_results.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"


def new_run_path(runs_dir: str, task: str) -> Path:
    """`<runs_dir>/<date>_<time>_<task>`, with `_2`, `_3`, ... where that exists."""
    stem = Path(runs_dir) / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{task}"
    path, number = stem, 1
    while path.exists():
        number += 1
        path = stem.with_name(f"{stem.name}_{number}")
    return path


def create(path: Path) -> RunFolder:
    """Make a new run folder, or take that of a run which ended before it had saved anything.

    Raises ConfigError where it exists with other content, StorageError where it can't be made.
    """
    try:
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        (path / ".write-test").write_bytes(b"")
        (path / ".write-test").unlink()
    except OSError as error:
        raise StorageError(
            f"cannot write the run folder {str(path)!r}: {error.strerror}",
            slug="run-folder",
            key="run",
            help="choose a folder that you may write: runs_dir=... or run=...",
        ) from error
    return RunFolder(path)


def check_free(path: Path) -> None:
    """Raise ConfigError where `path` holds something that a new run must not touch."""
    if not path.exists() or (path.is_dir() and _holds_no_work(path)):
        return
    is_run = (path / "config.yaml").is_file()
    what = "exists and is not empty" if path.is_dir() else "is a file"
    raise ConfigError(
        f"run folder {str(path)!r} {what}",
        slug="run-exists",
        key="run",
        help=f"go on with it by 'chainft train run={path} resume=true', or choose another name"
        if is_run
        else "choose another name, or leave run out for a new folder in runs_dir",
    )


def _holds_no_work(path: Path) -> bool:
    """Whether the folder is empty, or has only what a run writes before its first step: nothing that could be lost."""
    names = {entry.name for entry in path.iterdir() if not (entry.name == "checkpoints" and _is_empty(entry))}
    return not names or ("config.yaml" in names and names <= _BEFORE_TRAINING)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def clear(folder: RunFolder) -> None:
    """Remove what an earlier try left that the new one may not write again; `log.txt` goes on."""
    for name in _OF_ONE_TRY:
        (folder.path / name).unlink(missing_ok=True)


@contextmanager
def lock(folder: RunFolder, *, what: str = "run", key: str = "run") -> Iterator[None]:
    """Hold the folder for this process. Raises StorageError that names the process that holds it.

    The lock is the kernel's (`flock`): it ends with the process, however that ends. `what` the folder is of and the
    `key` that names it are for messages.
    """
    path = folder.path / ".lock"
    with _opened(path) as stream:
        if not _locked(stream):
            stream.seek(0)
            raise StorageError(
                f"{what} folder {str(folder.path)!r} is in use by {stream.read().strip() or 'another process'}",
                slug=f"{what}-in-use",
                where=str(path),
                help=f"wait for that {what} to end, or choose another folder by {key}=...",
            )
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield


@dataclass(frozen=True)
class Holder:
    """The process that uses a run folder."""

    pid: int
    host: str

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == socket.gethostname()


def holder(folder: RunFolder) -> Holder | None:
    """The process that has locked the folder; None: none has."""
    path = folder.path / ".lock"
    if not path.is_file():
        return None
    with path.open("r+", encoding="utf-8") as stream:
        if _locked(stream):
            return None
        told = stream.read().split()
    # Between locking and writing its name, a process has none.
    return Holder(int(told[1]), told[3]) if len(told) == 4 else Holder(0, "a machine that is not known yet")


def _locked(stream: TextIO) -> bool:
    """Lock an open file, unless another process has."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"cannot lock the run folder {str(path.parent)!r}: {error.strerror}",
            slug="run-folder",
            where=str(path),
            help="ask for the right to write there, or copy the folder and go on with the copy",
        ) from error


def model_folder(path: Path) -> Path:
    """`path` or its `model/`, whichever holds a trained model."""
    for folder in (path / "model", path):
        if (folder / STATE_FILE).is_file():
            return folder
    if not path.is_dir():
        raise ConfigError(
            f"run folder {str(path)!r} does not exist",
            slug="no-run",
            where=str(path),
            help="give the folder that 'chainft train' printed, such as runs/<date>_<time>_<task>",
        )
    if (path / "checkpoints").is_dir():
        raise ModelError(
            f"run {str(path)!r} has not finished: it has checkpoints but no model yet",
            slug="unfinished-run",
            where=str(path),
            help=f"finish it by 'chainft train run={path} resume=true'",
        )
    raise ModelError(
        f"{str(path)!r} holds no trained model ({STATE_FILE} is missing)",
        slug="no-trained-model",
        where=str(path),
        help="give the folder of a finished run",
    )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, whole or not at all. Raises StorageError."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {str(path)!r}: {error.strerror}", slug="write-failed", help="free disk space or permissions"
        ) from error


def saved_ties(folder: Path) -> Mapping[str, str]:
    """Which copies in a model folder were one parameter; none where chainft did not save it.

    Raises CheckpointError for a `chainft.json` that is damaged.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        return {}
    try:
        ties = json.loads(file.read_text(encoding="utf-8")).get("ties", {})
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise CheckpointError(f"{file.name} is damaged: {error}", slug="damaged", where=str(file)) from error
    if not isinstance(ties, dict):
        raise CheckpointError(f"{file.name} is damaged: ties = {ties!r}", slug="damaged", where=str(file))
    return ties

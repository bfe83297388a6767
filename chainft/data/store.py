"""The tokenised examples of a split: made once, kept on disk by content, read through memory maps.

An entry is a folder `<cache>/store/<key>/` with, for each column, its values end to end (`<column>.values`) and
where each feature's begin (`<column>.starts`), and `meta.json` with sizes and digests. The key is a digest of all
that the features depend on, so a changed file, tokenizer or setting is another entry. Entries appear whole by a
rename; of two processes that write the same one, the first wins. A damaged entry is named and made again.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from chainft import __version__
from chainft.config.parse import dump
from chainft.data.example import Example
from chainft.data.load import content_of
from chainft.errors import StorageError

if TYPE_CHECKING:
    from chainft.tasks.base import Arrays, Column, Task

logger = logging.getLogger(__name__)

FORMAT = 1
PROGRESS_EVERY = 256
_BLOCK = 1 << 20


class FeatureStore:
    """Features of a split by number, memory-mapped."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.folder = folder
        self.key: str = folder.name
        self.first_of = self._map("first_of.starts", np.int64)
        """(num_examples + 1,): the features of example i are `first_of[i]` up to `first_of[i + 1]`."""
        self._values = {name: self._map(f"{name}.values", np.dtype(kind)) for name, kind in meta["columns"].items()}
        self._starts = {name: np.asarray(self._map(f"{name}.starts", np.int64)) for name in meta["columns"]}

    def __len__(self) -> int:
        return int(self.first_of[-1])

    def __getitem__(self, index: int) -> Arrays:
        return {
            name: np.asarray(values[self._starts[name][index] : self._starts[name][index + 1]])
            for name, values in self._values.items()
        }

    @cached_property
    def lengths(self) -> np.ndarray:
        """(num_features,) tokens of each feature."""
        return np.diff(self._starts["input_ids"])

    @cached_property
    def example_of(self) -> np.ndarray:
        """(num_features,) the example of each feature."""
        return np.repeat(np.arange(len(self.first_of) - 1), np.diff(self.first_of))

    def _map(self, name: str, dtype: Any) -> np.ndarray:
        path = self.folder / name
        if path.stat().st_size == 0:
            return np.zeros(0, dtype=dtype)  # An empty file cannot be mapped.
        return np.memmap(path, dtype=dtype, mode="r")


def open_store(
    examples: Sequence[Example],
    task: Task,
    *,
    cache_dir: Path | None,
    split: str,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureStore:
    """The features of `examples`, from the cache or tokenised now. `task.prepare` was called.

    `split` only names the work in messages; `progress` receives (done, total) now and then and may raise to stop.
    Raises StorageError where the cache folder cannot be written.
    """
    root = (cache_dir or default_cache_dir()) / "store"
    folder = root / _key(examples, task)
    if (meta := _whole(folder)) is not None:
        logger.info("%s: tokenised features found (%s)", split, folder.name[:12])
        return FeatureStore(folder, meta)
    with _explained(root):
        root.mkdir(parents=True, exist_ok=True)
        temporary = root / f".{folder.name}.tmp-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            _build(temporary, examples, task, progress)
            _publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    meta = _whole(folder)
    if meta is None:
        raise StorageError(
            f"the tokenised features in {str(folder)!r} are damaged right after writing", slug="cache-damaged"
        )
    return FeatureStore(folder, meta)


def default_cache_dir() -> Path:
    """`$CHAINFT_CACHE`, else `~/.cache/chainft`."""
    configured = os.environ.get("CHAINFT_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "chainft"


def _key(examples: Sequence[Example], task: Task) -> str:
    """Digest of everything that the features depend on."""
    digest = hashlib.sha256(f"{FORMAT} {__version__} {task.max_length}\n".encode())
    digest.update(json.dumps(dump(task.config), sort_keys=True).encode())
    digest.update(json.dumps(list(task.labels.names)).encode())
    digest.update(_tokenizer_content(task.tokenizer))
    digest.update(_code_of(task))
    for example in examples:
        digest.update(content_of(example))
    return digest.hexdigest()[:40]


def _tokenizer_content(tokenizer: Any) -> bytes:
    special = {name: str(value) for name, value in sorted(tokenizer.special_tokens_map.items())}
    template = getattr(tokenizer, "chat_template", None)
    text: str = tokenizer.backend_tokenizer.to_str() + json.dumps([special, template, tokenizer.padding_side])
    return text.encode()


def _code_of(task: Task) -> bytes:
    """The source of the task: features made by other code are other features."""
    files = [inspect.getsourcefile(type(task))]
    files += [str(file) for file in sorted(Path(__file__).parents[1].joinpath("text").glob("*.py"))]
    return b"".join(Path(file).read_bytes() for file in files if file)


class _Writer:
    """Appends arrays to a file and hashes what it writes."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.stream: BinaryIO = stack.enter_context(path.open("wb"))
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, array: np.ndarray) -> None:
        data = np.ascontiguousarray(array).tobytes()
        self.stream.write(data)
        self.digest.update(data)
        self.size += len(data)

    def close(self) -> dict[str, Any]:
        """Make it durable; size and digest for `meta.json`."""
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()
        return {"bytes": self.size, "sha256": self.digest.hexdigest()}


class _ColumnWriter:
    """Values and starts of one column."""

    def __init__(self, folder: Path, name: str, column: Column, stack: ExitStack) -> None:
        self.dtype = np.dtype(column.dtype)
        self.values = _Writer(folder / f"{name}.values", stack)
        self.starts = _Writer(folder / f"{name}.starts", stack)
        self.position = 0
        self.starts.write(np.array([0], dtype=np.int64))

    def append(self, array: np.ndarray) -> None:
        self.values.write(array.astype(self.dtype, copy=False))
        self.position += len(array)
        self.starts.write(np.array([self.position], dtype=np.int64))


def _build(folder: Path, examples: Sequence[Example], task: Task, progress: Callable[[int, int], None] | None) -> None:
    with ExitStack() as stack:
        _write(folder, examples, task, progress, stack)


def _write(
    folder: Path,
    examples: Sequence[Example],
    task: Task,
    progress: Callable[[int, int], None] | None,
    stack: ExitStack,
) -> None:
    columns: dict[str, _ColumnWriter] = {}
    first_of = _Writer(folder / "first_of.starts", stack)
    first_of.write(np.array([0], dtype=np.int64))
    count = 0
    for number, example in enumerate(examples):
        if progress and number % PROGRESS_EVERY == 0:
            progress(number, len(examples))
        for feature in task.encode(example):
            columns = columns or _columns(folder, task, feature, stack)
            for name, column in columns.items():
                column.append(feature[name])
            count += 1
        first_of.write(np.array([count], dtype=np.int64))
    files = {"first_of.starts": first_of.close()}
    for name, column in (columns or _columns(folder, task, {"input_ids": np.zeros(0)}, stack)).items():
        files[f"{name}.values"] = column.values.close()
        files[f"{name}.starts"] = column.starts.close()
    kinds = {name: task.features[name].dtype for name in columns or ["input_ids"]}
    meta = {"format": FORMAT, "chainft": __version__, "examples": len(examples), "columns": kinds, "files": files}
    with (folder / "meta.json").open("w", encoding="utf-8") as stream:
        json.dump(meta, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    if progress:
        progress(len(examples), len(examples))


def _columns(
    folder: Path, task: Task, feature: Mapping[str, np.ndarray], stack: ExitStack
) -> dict[str, _ColumnWriter]:
    """Writers of the task's columns that its features have."""
    chosen = {name: column for name, column in task.features.items() if name in feature}
    return {name: _ColumnWriter(folder, name, column, stack) for name, column in chosen.items()}


def _publish(temporary: Path, folder: Path) -> None:
    """Give the entry its name; an entry that another process finished first stays."""
    try:
        temporary.rename(folder)
    except OSError:
        if _whole(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)


def _whole(folder: Path) -> dict[str, Any] | None:
    """The entry's meta if every file is there with its size and digest; a damaged entry is removed."""
    if not folder.is_dir():
        return None
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        damaged = [name for name, facts in meta["files"].items() if not _is_whole(folder / name, facts)]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        damaged = ["meta.json"]
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


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write tokenised features below {str(root)!r}: {error.strerror}",
            slug="cache-unwritable",
            where=str(root),
            key="data.cache_dir",
            help="free space there, or choose another folder by data.cache_dir=... or CHAINFT_CACHE",
        ) from error

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
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chainft import __version__
from chainft.config.parse import dump
from chainft.data.cache import default_cache_dir, temporary_name
from chainft.data.encoding import encoded
from chainft.data.entry import Starts, Writer, mark_used, publish, read_whole, remove_orphans, size_of, write_meta
from chainft.data.example import Example
from chainft.data.load import content_of
from chainft.errors import StorageError

if TYPE_CHECKING:
    from chainft.tasks.base import Arrays, Column, Task

logger = logging.getLogger(__name__)

FORMAT = 3
PROGRESS_EVERY = 64


class FeatureStore:
    """Features of a split by number, memory-mapped."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self.folder = folder
        self.key: str = folder.name
        self.first_of = self._map("first_of.starts", np.int64)
        """(num_examples + 1,): the features of example i are `first_of[i]` up to `first_of[i + 1]`."""
        self._values = {name: self._map(f"{name}.values", np.dtype(kind)) for name, kind in meta["columns"].items()}
        self._files: Mapping[str, Mapping[str, Any]] = meta["files"]
        self._starts = {name: self._map(f"{name}.starts", np.int64) for name in meta["columns"]}

    def __len__(self) -> int:
        return int(self.first_of[-1])

    def __getitem__(self, index: int) -> Arrays:
        starts = self._starts
        places = ((name, starts[name][index], starts[name][index + 1]) for name in self._values)
        return {name: self._values[name][start:end] for name, start, end in places if end > start}

    def column(self, name: str) -> np.ndarray:
        """All values of a column, end to end."""
        return self._values[name]

    @cached_property
    def lengths(self) -> np.ndarray:
        """(num_features,) tokens of each feature."""
        return np.diff(self._starts["input_ids"])

    @cached_property
    def example_of(self) -> np.ndarray:
        """(num_features,) the example of each feature."""
        return np.repeat(np.arange(len(self.first_of) - 1), np.diff(self.first_of))

    def digest(self, columns: Collection[str]) -> str:
        """Digest of the content of those of `columns` that are there, in the order of the features."""
        files = [f"{name}.{part}" for name in sorted(columns) if name in self._values for part in ("values", "starts")]
        return hashlib.sha256(json.dumps([[file, self._files[file]["sha256"]] for file in files]).encode()).hexdigest()

    def _map(self, name: str, dtype: Any) -> np.ndarray:
        path = self.folder / name
        if path.stat().st_size == 0:
            return np.zeros(0, dtype=dtype)  # An empty file cannot be mapped.
        # As a plain array: slices of `np.memmap` objects take several times longer.
        return np.asarray(np.memmap(path, dtype=dtype, mode="r"))


def open_store(
    examples: Sequence[Example],
    task: Task,
    *,
    cache_dir: Path | None,
    split: str,
    progress: Callable[[int, int], None] | None = None,
    num_workers: int = 1,
) -> FeatureStore:
    """The features of `examples`, from the cache or tokenised now by `num_workers` processes. `task.prepare` was called.

    `split` only names the work in messages; `progress` receives (done, total) now and then and may raise to stop.
    Raises StorageError where the cache folder cannot be written.
    """
    root = (cache_dir or default_cache_dir()) / "store"
    folder = root / _key(examples, task)
    if (meta := read_whole(folder)) is not None:
        logger.info("%s: tokenised features found (%s)", split, folder.name[:12])
        mark_used(folder)
        return FeatureStore(folder, meta)
    temporary = temporary_name(folder)
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_orphans(root)
        temporary.mkdir()
        _build(temporary, examples, task, progress, num_workers)
        publish(temporary, folder)
    except OSError as error:
        raise _cannot_write(root, error, written=size_of(temporary)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    meta = read_whole(folder)
    if meta is None:
        raise StorageError(
            f"the tokenised features in {str(folder)!r} are damaged right after writing", slug="cache-damaged"
        )
    return FeatureStore(folder, meta)


def _key(examples: Sequence[Example], task: Task) -> str:
    """Digest of everything that the features depend on."""
    digest = hashlib.sha256(f"{FORMAT} {__version__} {task.max_length}\n".encode())
    digest.update(json.dumps(dump(task.config), sort_keys=True).encode())
    digest.update(json.dumps(list(task.labels.names)).encode())
    digest.update(task.feature_key.encode())
    digest.update(_tokenizer_content(task.tokenizer))
    digest.update(_code_of(task))
    for example in examples:
        digest.update(content_of(example))
    return digest.hexdigest()[:40]


def _tokenizer_content(tokenizer: Any) -> bytes:
    """What the tokenizer makes of texts; without the truncation and padding of its last call, which it remembers."""
    special = {name: str(value) for name, value in sorted(tokenizer.special_tokens_map.items())}
    template = getattr(tokenizer, "chat_template", None)
    if getattr(tokenizer, "backend_tokenizer", None) is None:  # Not a fast one.
        with tempfile.TemporaryDirectory() as folder:
            files = sorted(tokenizer.save_vocabulary(folder))
            content = b"".join(Path(file).read_bytes() for file in files)
        return content + json.dumps([type(tokenizer).__name__, special, template]).encode()
    backend = re.sub(r'"truncation":.*?(?="added_tokens":)', "", tokenizer.backend_tokenizer.to_str(), count=1)
    return (backend + json.dumps([special, template, tokenizer.padding_side])).encode()


def _code_of(task: Task) -> bytes:
    """The source of the task: features made by other code are other features."""
    files = [inspect.getsourcefile(type(one)) for one in (task, *task.tasks.values())]
    files += [str(file) for file in sorted(Path(__file__).parents[1].joinpath("text").glob("*.py"))]
    files += [str(file) for file in sorted(Path(__file__).parents[1].joinpath("tasks").glob("_*.py"))]
    return b"".join(Path(file).read_bytes() for file in files if file)


class _ColumnWriter:
    """Values and starts of one column."""

    def __init__(self, folder: Path, name: str, column: Column, stack: ExitStack) -> None:
        self.values = Writer(folder / f"{name}.values", column.dtype, stack)
        self.starts = Starts(folder / f"{name}.starts", stack)

    def append(self, array: np.ndarray) -> None:
        self.values.append(array)
        self.starts.append(len(array))


def _build(
    folder: Path,
    examples: Sequence[Example],
    task: Task,
    progress: Callable[[int, int], None] | None,
    num_workers: int,
) -> None:
    if progress:
        progress(0, len(examples))  # Its clock begins now.
    with ExitStack() as stack, closing(encoded(task, examples, num_workers=num_workers)) as rows:
        write_meta(folder, _write(folder, rows, len(examples), task, progress, stack))
    if progress:
        progress(len(examples), len(examples))


def _write(
    folder: Path,
    rows: Iterable[Sequence[Arrays]],
    num_examples: int,
    task: Task,
    progress: Callable[[int, int], None] | None,
    stack: ExitStack,
) -> dict[str, Any]:
    """Write the features of every example into the files of the columns; the content of `meta.json`."""
    columns: dict[str, _ColumnWriter] = {}
    first_of = Starts(folder / "first_of.starts", stack)
    for number, features in enumerate(rows):
        if progress and number and number % PROGRESS_EVERY == 0:
            progress(number, num_examples)
        for feature in features:
            columns = columns or _columns(folder, task, feature, stack)
            for name, column in columns.items():
                column.append(feature.get(name, _NOTHING))
        first_of.append(len(features))
    columns = columns or _columns(folder, task, {"input_ids": np.zeros(0)}, stack)
    files = {"first_of.starts": first_of.close()}
    for name, column in columns.items():
        files[f"{name}.values"] = column.values.close()
        files[f"{name}.starts"] = column.starts.close()
    kinds = {name: task.features[name].dtype for name in columns}
    return {"format": FORMAT, "chainft": __version__, "examples": num_examples, "columns": kinds, "files": files}


_NOTHING = np.zeros(0, np.int32)
"""Where several tasks are learned together, features lack the columns of tasks that they are not for."""


def _columns(
    folder: Path, task: Task, feature: Mapping[str, np.ndarray], stack: ExitStack
) -> dict[str, _ColumnWriter]:
    """Writers of the task's columns that its features have; of several tasks, of all their columns."""
    chosen = {name: column for name, column in task.features.items() if name in feature or task.tasks}
    return {name: _ColumnWriter(folder, name, column, stack) for name, column in chosen.items()}


def _cannot_write(root: Path, error: OSError, *, written: int) -> StorageError:
    there = next((folder for folder in (root, *root.parents) if folder.is_dir()), Path("/"))
    free = shutil.disk_usage(there).free
    return StorageError(
        f"cannot write tokenised features below {str(root)!r}: {error.strerror} "
        f"({written:,} bytes were written, {free:,} are free)",
        slug="cache-unwritable",
        where=str(root),
        key="data.cache_dir",
        help="free space there, or choose another folder by data.cache_dir=... or CHAINFT_CACHE",
    )

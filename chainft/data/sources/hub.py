"""Data sets of the Hugging Face hub, and folders that `datasets` wrote by `save_to_disk`.

`data.train`, `data.validation` and `data.test` name splits. No code of a data set is ever run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chainft.config.run import DataConfig, Files
from chainft.data import arrow
from chainft.data.example import Example
from chainft.data.files import find_file
from chainft.data.sources.base import Source
from chainft.errors import ChainftError, ConfigError, DataError, Problem, SecurityError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class HubConfig(DataConfig):
    """A data set by its hub name or folder; class numbers become class names."""

    path: str
    """Hub name such as `conll2003` or `owner/name`, or a folder: of data files, or written by `save_to_disk`."""
    config_name: str | None = None
    """Which of the data set's configurations, for example a language."""
    revision: str | None = None
    """Branch, tag or commit of a hub name."""
    train: Files = "train"
    """Split or splits of training examples."""

    def __post_init__(self) -> None:
        if self.encoding != DataConfig.encoding:
            message = f"data.encoding={self.encoding!r} has no effect: data sets are always UTF-8"
            raise ConfigError(message, slug="no-effect", key="data.encoding")
        if self.path in _FORMATS:
            raise ConfigError(
                f"data.path={self.path!r} is a file format, not a data set",
                slug="not-a-data-set",
                key="data.path",
                help="for files use data=csv, data=jsonl or data=parquet",
            )


_FORMATS = (
    *("csv", "json", "text", "parquet", "arrow", "pandas", "xml", "sql", "spark", "generator", "webdataset"),
    *("imagefolder", "audiofolder", "videofolder", "pdffolder", "meshfolder", "niftifolder"),
    *("conll", "eval", "hdf5", "lance", "tsfile", "iceberg", "vortex"),
    *("mmcif", "pdb", "fasta", "fastq", "genbank", "harbor"),
)
"""Names that `datasets` takes for its readers: they read the current folder; `pandas` even unpickles."""
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class HubSource(Source):
    """Reads a split; rows are numbered from 0."""

    config_class = HubConfig
    config: HubConfig

    def read(self, file: str) -> Iterator[Example | Problem]:
        table = self._load(file)
        batches = table.with_format("arrow").iter(batch_size=arrow.BATCH_ROWS)
        yield from arrow.rows(batches, table.features.to_dict(), f"{self.config.path}[{file}]")

    def column_names(self, file: str) -> tuple[str, ...]:
        return tuple(self._load(file).column_names)

    def _load(self, split: str) -> Dataset:
        from datasets.exceptions import DatasetsError

        folder = self._folder()
        try:
            if folder is not None and any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
                return self._saved(folder, split)
            return self._published(folder, split)
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            if isinstance(error, RuntimeError) and "script" not in str(error).lower():
                raise  # a bug
            raise self._explained(error, split) from error

    def _folder(self) -> Path | None:
        """The local folder that `path` names; None for a hub name. Raises DataError for neither."""
        path = self.config.path
        folder = Path.home() / path[2:] if path.startswith("~/") else Path(path)
        if folder.is_dir():
            return folder
        if not _HUB_NAME.fullmatch(path) or path.startswith("."):
            find_file(path, key="data.path")
            raise DataError(
                f"{path!r} is a file, not a data set",
                slug="not-a-data-set",
                where=path,
                key="data.path",
                help="for files use data=csv, data=jsonl or data=parquet",
            )
        return None

    def _saved(self, folder: Path, split: str) -> Dataset:
        from datasets import DatasetDict, load_from_disk

        for name in ("config_name", "revision"):
            if getattr(self.config, name) is not None:
                message = f"data.{name} has no effect: {str(folder)!r} was written by save_to_disk"
                raise ConfigError(message, slug="no-effect", key=f"data.{name}")
        found = load_from_disk(str(folder))
        splits = dict(found) if isinstance(found, DatasetDict) else {str(found.split or "train"): found}
        if split not in splits:
            raise self._no_split(split, list(splits))
        return splits[split]

    def _published(self, folder: Path | None, split: str) -> Dataset:
        from datasets import load_dataset

        path, name = str(folder or self.config.path), self.config.config_name
        found: Dataset = load_dataset(path, name, split=split, revision=self.config.revision)
        return found

    def _no_split(self, split: str, splits: list[str]) -> DataError:
        return DataError(
            f"{self.config.path!r} has no split {split!r}; there are: {', '.join(splits)}",
            slug="no-split",
            where=self.config.path,
            key=self.key_of(split),
            help=did_you_mean(split, splits),
        )

    def _explained(self, error: Exception, split: str) -> ChainftError:
        """The failure of `datasets` in our words."""
        from datasets.exceptions import DatasetNotFoundError

        path, text = self.config.path, str(error).strip().split("\n")[0]
        if isinstance(error, RuntimeError):
            return self._refused_code()
        if isinstance(error, DatasetNotFoundError):
            return self._error(
                "no-data-set", f"data set {path!r} is not on the hub, or is not open to you", "data.path"
            )
        if isinstance(error, ConnectionError) or "offline" in text.lower():
            return self._error(
                "hub-unreachable",
                f"data set {path!r} cannot be fetched: {text}",
                "data.path",
                help="connect, or name a folder that save_to_disk wrote on a machine with a network: data.path=FOLDER",
            )
        if text.startswith("Unknown split"):
            return self._no_split(split, re.findall(r"'([^']+)'", text))
        if text.startswith(("BuilderConfig", "Config name is missing")):
            return self._error("no-config", f"{path!r}: {' '.join(str(error).split())}", "data.config_name")
        return self._error("unreadable-data-set", f"data set {path!r} cannot be read: {text}", "data.path")

    def _error(self, slug: str, message: str, key: str, help: str | None = None) -> DataError:
        return DataError(message, slug=slug, where=self.config.path, key=key, help=help)

    def _refused_code(self) -> SecurityError:
        return SecurityError(
            f"data set {self.config.path!r} needs code of its own, which chainft never runs",
            slug="data-set-code",
            where=self.config.path,
            key="data.path",
            help="many have a copy as parquet: try data.revision=refs/convert/parquet",
        )


PLUGIN = HubSource

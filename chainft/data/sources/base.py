"""What a data source is: it reads one format and yields rows under the data's own column names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from chainft.config.run import DataConfig
from chainft.data.example import SPLITS, Example
from chainft.errors import Problem


class Source(ABC):
    """Reads files of one format. A source is one module here that binds its class to `PLUGIN`, and one YAML."""

    config_class: ClassVar[type[DataConfig]]
    config: DataConfig
    endings: ClassVar[tuple[str, ...]] = ()
    """Endings of file names (`.csv`, lower case) that this source reads when no source is named; of ours only."""
    reads_files: ClassVar[bool] = False
    """Whether `data.train` and the like name plain files, whose absence is then told at once."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config

    @abstractmethod
    def read(self, file: str) -> Iterator[Example | Problem]:
        """The rows of a file, in its order; a malformed one as a Problem at `file:line`.

        Streams: holds one row at a time. Raises DataError or SecurityError for a file that cannot be read at all.
        """

    @abstractmethod
    def column_names(self, file: str) -> tuple[str, ...]:
        """The names of a file's columns, from its header or first row; empty for an empty file."""

    def file_of(self, name: str) -> str:
        """The plain file that a setting names: the name itself, unless it also says which part of the file."""
        return name

    def key_of(self, file: str) -> str | None:
        """The setting that names `file`, for messages: `data.train`."""
        for split in SPLITS:
            files = getattr(self.config, split)
            if file == files or (isinstance(files, tuple) and file in files):
                return f"data.{split}"
        return None

    def _first_row_names(self, file: str) -> tuple[str, ...]:
        rows = (row for row in self.read(file) if isinstance(row, Example))
        first = next(rows, None)
        return tuple(first.values) if first else ()

"""Parquet files, read a batch of rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from chainft.config.run import DataConfig
from chainft.data import arrow
from chainft.data.example import Example
from chainft.data.files import find_file
from chainft.data.sources.base import Source
from chainft.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile


@dataclass(frozen=True, kw_only=True)
class ParquetConfig(DataConfig):
    """Columns of a parquet file; class numbers become names where the file holds the names, as the hub's do."""

    def __post_init__(self) -> None:
        if self.encoding != DataConfig.encoding:
            raise ConfigError(
                f"data.encoding={self.encoding!r} has no effect: parquet is always UTF-8",
                slug="no-effect",
                key="data.encoding",
            )


class ParquetSource(Source):
    """Reads parquet; rows are numbered from 0."""

    config_class = ParquetConfig
    endings: ClassVar[tuple[str, ...]] = (".parquet",)
    reads_files: ClassVar[bool] = True
    config: ParquetConfig

    def read(self, file: str) -> Iterator[Example | Problem]:
        with self._open(file) as table:
            arrow.check_names(table.schema_arrow.names, file, key=self.key_of(file))
            batches = table.iter_batches(batch_size=arrow.BATCH_ROWS)
            yield from arrow.rows(batches, _features(table.schema_arrow.metadata), file)

    def column_names(self, file: str) -> tuple[str, ...]:
        with self._open(file) as table:
            return arrow.check_names(table.schema_arrow.names, file, key=self.key_of(file))

    @contextmanager
    def _open(self, file: str) -> Iterator[ParquetFile]:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        path = find_file(file, key=self.key_of(file))
        try:
            with ParquetFile(path) as table:
                yield table
        except (ArrowException, OSError) as error:
            raise DataError(
                f"{file!r} is not parquet or is damaged: {error}",
                slug="damaged-parquet",
                where=file,
                key=self.key_of(file),
            ) from None


def _features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """What Hugging Face `datasets` wrote about the columns, if it made the file."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


PLUGIN = ParquetSource

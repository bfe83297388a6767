"""Answers of a survey: `stars | text` on each line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from chainft.config.run import DataConfig
from chainft.data.example import Example, Origin
from chainft.data.files import read_lines
from chainft.data.sources.base import Source
from chainft.errors import Problem


@dataclass(frozen=True, kw_only=True)
class SurveyConfig(DataConfig):
    """Answers of a survey, one a line."""

    divider: str = "|"
    """What stands between stars and text."""


class Survey(Source):
    config_class: ClassVar[type[DataConfig]] = SurveyConfig
    config: SurveyConfig
    reads_files: ClassVar[bool] = True

    def read(self, file: str) -> Iterator[Example | Problem]:
        for line in read_lines(file, encoding=self.config.encoding, key=self.key_of(file)):
            stars, found, text = line.text.partition(self.config.divider)
            if line.problem:
                yield line.problem
            elif not found:
                yield Problem("no-divider", f"no {self.config.divider!r} in the line", f"{file}:{line.number}")
            else:
                yield Example({"label": stars.strip(), "text": text.strip()}, Origin(file, line.number))

    def column_names(self, file: str) -> tuple[str, ...]:
        return self._first_row_names(file)

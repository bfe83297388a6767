"""The data of several tasks that are learned together: each task reads its own source, so this one reads no file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from chainft.config.joint import JointDataConfig
from chainft.config.run import DataConfig
from chainft.data.example import Example
from chainft.data.sources.base import Source
from chainft.errors import ConfigError, Problem


class JointSource(Source):
    """Stands for the sources in `data.tasks`, which are read one by one (`chainft.data.joint`)."""

    config_class: ClassVar[type[DataConfig]] = JointDataConfig

    def read(self, file: str) -> Iterator[Example | Problem]:
        """Raises ConfigError: no task but `joint` can read it."""
        raise _only_for_joint(file)

    def column_names(self, file: str) -> tuple[str, ...]:
        """Raises ConfigError, as `read`."""
        raise _only_for_joint(file)


def _only_for_joint(file: str) -> ConfigError:
    return ConfigError(
        f"data.name = joint reads no file by itself, and {file!r} is given",
        slug="no-effect",
        key="data.name",
        help="choose the source of the file, or name the data of each task by data.tasks.NAME.train",
    )


PLUGIN = JointSource

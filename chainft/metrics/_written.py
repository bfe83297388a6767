"""What metrics of written answers share: several right answers to choose from, and a package that may be missing."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal

from chainft.errors import ConfigError
from chainft.tasks.base import Metric

if TYPE_CHECKING:
    from chainft.tasks._text_to_text import TextToText


class Written(Metric):
    """Compares an answer with all right answers of its example: `update` receives a list of texts and a text."""

    family: ClassVar[Literal["references"]] = "references"

    def fit(self, task: TextToText) -> None:
        """Take what it needs of the task, before the first answer."""


def need(package: str, metric: str) -> None:
    """Raise ConfigError where the package that computes a metric is not installed."""
    if find_spec(package) is None:
        raise ConfigError(
            f"metric {metric!r} needs the package {package.replace('_', '-')!r}, which is not installed",
            slug="package-not-installed",
            key="task.metrics",
            help="pip install 'chainft[generate]'",
        )

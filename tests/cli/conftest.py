"""A task and a source for tests of the configuration, so that these depend on no real plug-in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import pytest

from chainft import registry
from chainft.config.ranges import Limits
from chainft.config.run import DataConfig, TaskConfig
from chainft.data.sources.base import Source
from chainft.tasks.base import Metric, Scores, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyTaskConfig(TaskConfig):
    """A task that exists only here."""

    scheme: Literal["auto", "iob2"] = "auto"
    """How tags are written."""
    overlap: Annotated[int, Limits(low=0)] = 8
    """Tokens that windows share."""

    def __post_init__(self) -> None:
        if self.overlap == 13:
            raise ValueError("13 brings bad luck")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyDataConfig(DataConfig):
    """A source that exists only here."""

    separator: str | None = None
    """What stands between columns."""


class ToyMetric(Metric):
    family = "toy"

    def compute(self) -> Scores:
        return Scores({"f1": 0.0})


class ToyTask(Task):
    config_class = ToyTaskConfig
    main_metric = "f1"

    def metrics(self) -> list[Metric]:
        return [ToyMetric()]


ToyTask.__abstractmethods__ = ToyMetric.__abstractmethods__ = frozenset()


class ToySource(Source):
    config_class = ToyDataConfig


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Task and source `toy` beside the built-in ones; the current folder is an empty one."""
    real = registry.plugins
    own = {
        "task": registry.Plugin("task", "toy", "toy:Task", "chainft"),
        "source": registry.Plugin("source", "toy", "toy:Source", "chainft"),
    }
    classes = {"toy:Task": ToyTask, "toy:Source": ToySource}
    load = registry.Plugin.load
    monkeypatch.setattr(registry, "plugins", lambda kind: (*real(kind), *([own[kind]] if kind in own else [])))
    monkeypatch.setattr(registry.Plugin, "load", lambda plugin: classes.get(plugin.target) or load(plugin))
    monkeypatch.chdir(tmp_path)
    return tmp_path

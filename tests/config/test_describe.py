"""Every setting is explained where it is defined."""

from __future__ import annotations

import pytest

from chainft import registry
from chainft.config import kinds
from chainft.config.describe import class_doc, field_docs, settings
from chainft.config.run import DataConfig, OptimizerConfig, RunConfig, TaskConfig
from chainft.config.sweep_config import SweepConfig


def test_field_shows_its_string_its_range_and_its_default() -> None:
    found = {setting.key: setting for setting in settings(OptimizerConfig, at="optimizer")}
    lr = found["optimizer.lr"]
    assert (lr.expected, lr.default, lr.doc) == ("a number in (0, inf)", "5e-05", "Peak learning rate.")


def test_fields_of_a_plugin_are_explained_with_those_it_extends() -> None:
    toy = kinds.concrete(TaskConfig, {"name": "toy"})
    assert set(field_docs(toy)) == {"name", "scheme", "overlap"}
    assert class_doc(toy) == "A task that exists only here."


def _classes() -> list[type]:
    plugins = [kinds.concrete(TaskConfig, {"name": plugin.name}) for plugin in registry.plugins("task")]
    sources = [kinds.concrete(DataConfig, {"name": plugin.name}) for plugin in registry.plugins("source")]
    nested = [inner for info in kinds.fields_of(RunConfig) if (inner := kinds.config_class(info.kind))]
    return [RunConfig, SweepConfig, *nested, *plugins, *sources]


@pytest.mark.parametrize("cls", _classes(), ids=lambda cls: cls.__name__)
def test_every_class_and_field_has_a_docstring(cls: type) -> None:
    assert class_doc(cls)
    inner = {info.name for info in kinds.fields_of(cls) if kinds.config_class(info.kind)}
    assert {info.name for info in kinds.fields_of(cls)} - inner <= set(field_docs(cls))

"""The settings of an existing run, with a few words laid over them: what resuming and evaluating start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from chainft import registry
from chainft.config import gate, kinds, rules
from chainft.config.changes import check_changes
from chainft.config.compose import Composed, load_run_config, merge
from chainft.config.document import read_yaml
from chainft.config.hydra_edge import composer
from chainft.config.interpolation import resolve
from chainft.config.joint import JointDataConfig, data_parts
from chainft.config.run import DataConfig, RunConfig
from chainft.config.search import PRIMARY, search_folders
from chainft.errors import ConfigError, did_you_mean
from chainft.run_folder import RunFolder

_FOR_ONE_START = ("allow_change", "allow_data_change")
"""Consent that an earlier start was given; the next one asks again."""


def compose_resumed(run: str, overrides: Sequence[str]) -> Composed:
    """The config of a run that goes on. Raises ConfigError that lists every change it may not make (fault 8)."""
    folder = existing_run(Path(run))
    composed = compose_saved(folder, [*overrides, f"run={_quoted(run)}", "resume=true"])
    check_changes(load_run_config(folder.config), composed.config)
    return composed


def compose_saved(folder: RunFolder, overrides: Sequence[str]) -> Composed:
    """The run's `config.yaml` with overrides laid over it; `data=NAME` replaces the whole data source."""
    document = read_yaml(folder.config)
    gate.refuse_calls(document.data, lambda key: document.where(key) or str(folder.config))
    data = {key: value for key, value in document.data.items() if key not in _FOR_ONE_START}
    with composer(search_folders(None), PRIMARY) as hydra:
        parsed = hydra.parse(overrides)
    for override in parsed:
        if override.is_delete() or override.is_sweep_override() or override.package is not None:
            raise ConfigError(
                f"{override.input_line!r} cannot be laid over a saved run: give key=value",
                slug="bad-override",
                where=override.input_line,
            )
        key, value = override.key_or_group, override.value()
        word = override.input_line or key
        gate.refuse_calls({key: value}, partial(_always, word))
        _set(data, key, value, word=word)
    filled = merge(kinds.defaults_of(RunConfig, data), data)
    resolved = resolve(filled)
    return Composed(rules.parse_run(resolved), resolved, filled, tuple(overrides))


def existing_run(path: Path) -> RunFolder:
    """The folder of a run. Raises ConfigError where there is none."""
    folder = RunFolder(path)
    if not folder.config.is_file():
        near = [str(one.parent) for one in path.parent.glob("*/config.yaml")] if path.parent.is_dir() else []
        raise ConfigError(
            f"{str(path)!r} is not the folder of a run (it has no config.yaml)",
            slug="no-run",
            key="run",
            help=did_you_mean(str(path), near) or "give the folder that 'chainft train' printed",
        )
    return folder


def _always(word: str, key: str) -> str:
    return word


def _set(data: dict[str, Any], key: str, value: Any, *, word: str) -> None:
    if key == "data" and isinstance(value, str):
        data["data"] = {"name": _source_name(value, word)}
        return
    node = data
    *parents, leaf = key.split(".")
    for parent in parents:
        below = node.setdefault(parent, {})
        if not isinstance(below, dict):
            raise ConfigError(f"{word}: {parent!r} has no keys below it", slug="unknown-key", where=word, key=key)
        node = below
    if isinstance(node.get(leaf), dict) and isinstance(value, str):
        raise ConfigError(
            f"{word} names a config of a group, but this run's settings are already composed",
            slug="bad-override",
            where=word,
            key=key,
            help=f"give single keys, such as {key}.name=... ",
        )
    node[leaf] = value


def _source_name(value: str, word: str) -> str:
    known = [plugin.name for plugin in registry.plugins("source")]
    if value not in known:
        raise ConfigError(
            f"data source {value!r} does not exist; there are: {', '.join(known)}",
            slug="unknown-source",
            where=word,
            key="data",
            help=did_you_mean(value, known),
        )
    return value


def _quoted(text: str) -> str:
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def for_split(composed: Composed, split: str) -> Composed:
    """The same settings with only one split's files left, where it has files of its own.

    The files of the other splits are not needed then, and may be gone.
    """
    data = composed.config.data
    if isinstance(data, JointDataConfig):
        alone: DataConfig = replace(data, tasks={name: _alone(one, split) for name, one in data.tasks.items()})
    else:
        alone = _alone(data, split)
    return replace(composed, config=replace(composed.config, data=alone))


def _alone(data: DataConfig, split: str) -> DataConfig:
    if getattr(data, split) is None:
        return data
    only: dict[str, Any] = {"train": None, "validation": None, "test": None, split: getattr(data, split)}
    return replace(data, **only, validation_fraction=0.0, test_fraction=0.0)


def has_split(data: DataConfig, split: str) -> bool:
    """Whether some data have files for the split, or for train, of which it may be cut."""
    return any(getattr(one, split) is not None or one.train is not None for one in data_parts(data).values())

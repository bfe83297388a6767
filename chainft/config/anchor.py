"""Writes the local paths of a run's settings so that they hold from every working directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chainft.config.packaged import PACKAGED

_PATHS: Mapping[str, tuple[str, ...]] = {
    "model": ("tokenizer",),
    "data": ("train", "validation", "test", "path", "cache_dir"),
}


def anchored(data: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which relative paths to files and folders that exist are absolute.

    Names that are no path here (hub names, `starter`, `pkg://...`) and interpolations stay as they are, so that no
    value of the environment is written down. Without this, a run is resumed or evaluated from its first folder only.
    """
    copy = dict(data)
    for section, names in _PATHS.items():
        below = data.get(section)
        if isinstance(below, Mapping):
            copy[section] = {key: _anchor(value) if key in names else value for key, value in below.items()}
    if isinstance(copy.get("model"), Mapping):
        copy["model"] = _with_model(copy["model"], "path")
    several = copy.get("data", {}).get("tasks") if isinstance(copy.get("data"), Mapping) else None
    if isinstance(several, Mapping):
        copy["data"] = {**copy["data"], "tasks": {name: _data(one) for name, one in several.items()}}
    chain = data.get("chain")
    if isinstance(chain, Mapping) and isinstance(chain.get("stages"), Mapping):
        copy["chain"] = {**chain, "stages": {name: _stage(stage) for name, stage in chain["stages"].items()}}
    return copy


def _data(data: Any) -> Any:
    if not isinstance(data, Mapping):
        return data
    return {key: _anchor(value) if key in _PATHS["data"] else value for key, value in data.items()}


def _stage(stage: Any) -> Any:
    if not isinstance(stage, Mapping):
        return stage
    return _with_model({key: _anchor(value) if key == "from" else value for key, value in stage.items()}, "model")


def _with_model(section: Mapping[str, Any], key: str) -> dict[str, Any]:
    """With the model under `key` anchored, unless it is a short name: that wins over a folder which is called so."""
    value = section.get(key)
    return {**section, key: _anchor(value)} if key in section and value not in PACKAGED else dict(section)


def _anchor(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_anchor(one) for one in value]
    if not isinstance(value, str) or "${" in value or "://" in value or not value:
        return value
    path, separator, part = value.partition("::")  # `file.json::part` names a list inside of a document.
    here = Path(path).expanduser()
    return f"{here.resolve()}{separator}{part}" if here.exists() else value

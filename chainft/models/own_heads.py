"""Heads that are plug-ins, on models of transformers: put in the place of the last layer, saved, and read again.

A folder with such a head says so in its `config.json` by a `model_type` of its own: whoever reads it without chainft is
told that the architecture is unknown, instead of being given a model with a random head. Letters: B batch, L tokens,
D width, C scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from chainft.config.parse import dump, parse
from chainft.config.run import HeadConfig
from chainft.errors import ConfigError, ModelError
from chainft.models.foreign_modules import check_module
from chainft.models.heads import body_prefixes
from chainft.models.task_modules import TaskModule
from chainft.models.tensor_index import tensors_below
from chainft.models.weights import Located
from chainft.registry import find
from chainft.run_folder import write_json

MODEL_TYPE = "chainft_headed"
"""`model_type` in the `config.json` of a model with a head that is a plug-in."""
_TRUNK = "chainft_trunk"
"""Key there of the `model_type` that transformers knows."""
_HEAD = "chainft_head"
"""Key there, and attribute of the config in memory: the settings of the head."""


def put_head(model: PreTrainedModel, config: HeadConfig) -> str:
    """Put the head that `config` names in the place of the model's last layer; gives the path of that.

    Raises ConfigError for a model that has no layer with one score a class, and for a head that gives something else.
    """
    path = _last_layer(model, config)
    layer = model.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    width, num_outputs = layer.in_features, layer.out_features
    head = find("head", str(config.name), key="head.name")(config).build(width, num_outputs)
    inputs = [(torch.zeros(2, width),), (torch.zeros(2, 3, width),)]
    check_module(head, inputs, num_outputs, what=f"head {config.name!r}", key="head.name")
    model.set_submodule(path, head)
    setattr(model.config, _HEAD, dump(config))
    return path


def head_of(architecture: PreTrainedConfig) -> HeadConfig | None:
    """The settings of the plug-in head that a model has; None: it has that of its architecture.

    Raises ConfigError where no installed package brings that head, or its settings are others by now.
    """
    saved = getattr(architecture, _HEAD, None)
    return None if saved is None else parse(HeadConfig, saved, at="head")


def forget_head(architecture: PreTrainedConfig) -> None:
    """Make it the config of a model with the head of its architecture."""
    if hasattr(architecture, _HEAD):
        delattr(architecture, _HEAD)


def mark_folder(folder: Path) -> None:
    """Say in the `config.json` of a saved model that its head is a plug-in, where it is."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if _HEAD in config:
        write_json(file, {**config, "model_type": MODEL_TYPE, _TRUNK: config["model_type"]})


def read_marked(folder: Path) -> PreTrainedConfig | None:
    """The config of a folder whose head is a plug-in; None for any other. Raises ModelError for a damaged one."""
    file = folder / "config.json"
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        if plain.get("model_type") != MODEL_TYPE:
            return None
        kind, head = plain.pop(_TRUNK), plain[_HEAD]
        del plain["model_type"]
        if not isinstance(head, dict):
            raise TypeError(f"{_HEAD} = {head!r}")
        found: PreTrainedConfig = AutoConfig.for_model(kind, **plain)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"config.json is not as chainft writes it for a model with a head of its own: {error}",
            slug="bad-model-config",
            where=str(file),
            key="model.path",
            help="bring the file back as the run wrote it",
        ) from error
    return found


def read_head(model: PreTrainedModel, path: str, place: Located) -> None:
    """Give the head at `path` the tensors that are saved for it. Raises ModelError where they are not all there."""
    head = model.get_submodule(path)
    found = tensors_below(place, f"{path}.")
    wanted = head.state_dict()
    wrong = [
        *(f"{name} is missing" for name in wanted.keys() - found.keys()),
        *(f"{name} is no part of it" for name in found.keys() - wanted.keys()),
        *(
            f"{name} has the shape {list(found[name].shape)}, not {list(wanted[name].shape)}"
            for name in wanted.keys() & found.keys()
            if found[name].shape != wanted[name].shape
        ),
    ]
    if wrong:
        raise ModelError(
            f"the weights do not fit the head {head_name(model.config)!r}: {'; '.join(sorted(wrong)[:3])}",
            slug="missing-tensors",
            where=place.name,
            help="the package of the head may have changed since: install the version that trained it",
        )
    head.load_state_dict(found)


def head_name(architecture: PreTrainedConfig) -> str | None:
    """The name of the plug-in head of a model; None: it has that of its architecture."""
    saved: Mapping[str, object] = getattr(architecture, _HEAD, None) or {}
    return str(saved["name"]) if "name" in saved else None


def _last_layer(model: PreTrainedModel, config: HeadConfig) -> str:
    """Path of the linear layer outside of the body and of the modules of the task that gives as many scores as there are."""
    count = model.config.num_labels
    own = [f"{name}." for name, module in model.named_modules() if isinstance(module, TaskModule)]
    body = (*body_prefixes(model), *own)
    paths: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == count and not name.startswith(body)
    ]
    if not paths:
        raise ConfigError(
            f"head.name = {config.name} has no place in {type(model).__name__}: none of its layers gives one score a class",
            slug="no-place-for-head",
            key="head.name",
            help="take a model whose head ends in a linear layer, or leave head away",
        )
    return paths[-1]

"""The heads of a model: one, or of linked models one for each stage that has one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from chainft.auto_classes import LINKED


def set_options(architecture: PreTrainedConfig, options: Mapping[str, Any]) -> None:
    """Put what heads need, such as `id2label`, into a config, and into that of every linked stage with a head."""
    plain: Any = architecture
    configs = [plain]
    if plain.model_type == LINKED:
        configs += [
            plain.stages[name]["model"] for name, link in plain.links().items() if _has_head(name, link, plain)
        ]
    for config in configs:
        for key, value in options.items():
            if isinstance(config, dict):
                config[key] = value
            else:
                setattr(config, key, value)


def body_prefixes(model: PreTrainedModel) -> tuple[str, ...]:
    """What the names of all parameters outside of heads begin with."""
    if model.config.model_type != LINKED:
        return (f"{model.base_model_prefix}.",)
    prefixes = ["connectors.", "mixes."]
    for name, stage in _stages(model):
        prefixes.append(f"stages.{name}." + ("" if _is_body(stage) else f"{stage.base_model_prefix}."))
    return tuple(prefixes)


def reorder_heads(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Put the rows of the last layer (classes, width) of every head into another order of labels."""
    models = [model] if model.config.model_type != LINKED else [one for _, one in _stages(model) if not _is_body(one)]
    for one in models:
        layers = [m for m in one.modules() if isinstance(m, nn.Linear) and m.out_features == len(order)]
        with torch.no_grad():
            layers[-1].weight.copy_(layers[-1].weight[list(order)])
            if layers[-1].bias is not None:
                layers[-1].bias.copy_(layers[-1].bias[list(order)])


def _stages(model: PreTrainedModel) -> Iterator[tuple[str, PreTrainedModel]]:
    stages = model.get_submodule("stages")
    for name, stage in stages.named_children():
        assert isinstance(stage, PreTrainedModel)
        yield name, stage


def _is_body(stage: PreTrainedModel) -> bool:
    return stage.base_model is stage


def _has_head(name: str, link: Any, architecture: Any) -> bool:
    return link.auxiliary is not None or name == architecture.order[-1]

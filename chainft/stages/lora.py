"""Low-rank adapters on the linear layers of some blocks, put in by PEFT and merged before anything is exported."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from chainft.config.chain import LoraConfig
from chainft.errors import ConfigError, did_you_mean


def check_peft(key: str) -> None:
    """Raise ConfigError where PEFT is missing."""
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            "LoRA needs the package 'peft'", slug="not-installed", key=key, help="pip install 'chainft[lora]'"
        )


def add_adapters(model: PreTrainedModel, paths: Sequence[str], config: LoraConfig, *, key: str) -> list[str]:
    """Put adapters on the linear layers below `paths` (blocks); returns the layers' paths.

    Only the adapters of those blocks are trainable afterwards. Raises ConfigError where PEFT is missing or a name of
    `target_modules` is no linear layer there.
    """
    check_peft(key)
    layers = list(_linear_layers(model, paths))
    if not layers:
        raise ConfigError(
            f"{key} has no effect: the stage has no block with a linear layer",
            slug="no-effect",
            key=key,
            help="give lora to a stage that has blocks",
        )
    chosen = _chosen(layers, config.target_modules, key)
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    requires = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    inject_adapter_in_model(
        PeftConfig(
            r=config.r,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT only divides by it.
            lora_dropout=config.dropout,
            target_modules=list(chosen),
            fan_in_fan_out=isinstance(model.get_submodule(chosen[0]), Conv1D),
        ),
        model,
    )
    del model.peft_config  # Its mark would make a second stage's adapters, and a merged model, look like PEFT's own.
    _restore_flags(model, requires, paths)
    return chosen


def _linear_layers(model: PreTrainedModel, paths: Iterable[str]) -> Iterable[str]:
    for path in paths:
        for name, module in model.get_submodule(path).named_modules():
            if isinstance(module, nn.Linear | Conv1D):
                yield f"{path}.{name}"


def _chosen(layers: Sequence[str], targets: Sequence[str], key: str) -> list[str]:
    names = {layer.rpartition(".")[2] for layer in layers}
    for target in targets:
        if not any(layer.endswith(f".{target}") for layer in layers):
            raise ConfigError(
                f"{target!r} is no linear layer of these blocks; there are: {', '.join(sorted(names))}",
                slug="no-match",
                key=f"{key}.target_modules",
                help=did_you_mean(target, names),
            )
    if not targets:
        return list(layers)
    return [layer for layer in layers if any(layer.endswith(f".{target}") for target in targets)]


def _restore_flags(model: PreTrainedModel, requires: dict[str, bool], paths: Sequence[str]) -> None:
    """PEFT freezes the whole model: give every parameter outside of the blocks its flag back."""
    for name, parameter in model.named_parameters():
        plain = name.replace(".base_layer.", ".")
        if ".lora_" not in name:
            inside = any(plain.startswith(f"{path}.") for path in paths)
            parameter.requires_grad = requires.get(plain, parameter.requires_grad) and not inside


def tie_adapters(model: nn.Module, adapted: Collection[str], ties: Mapping[str, str]) -> None:
    """Give layers whose weights are one parameter one adapter. Raises ConfigError where only one of them has any."""
    for name, to in ties.items():
        mine, theirs = name.rpartition(".")[0], to.rpartition(".")[0]
        if not name.endswith(".weight") or not {mine, theirs} & set(adapted):
            continue
        if not {mine, theirs} <= set(adapted):
            raise ConfigError(
                f"{mine} and {theirs} have one weight, but only one of them has an adapter",
                slug="contradiction",
                key="chain.stages",
                help="give both stages the same lora, or share no parameters of adapted layers",
            )
        _tie_adapter(model.get_submodule(mine), model.get_submodule(theirs), mine, theirs)


def _tie_adapter(one: Any, other: Any, mine: str, theirs: str) -> None:
    told = [f"rank {layer.r['default']} and alpha {layer.lora_alpha['default']:g}" for layer in (one, other)]
    if told[0] != told[1]:
        raise ConfigError(
            f"{mine} and {theirs} have one weight, but adapters of {told[0]}, and of {told[1]}",
            slug="contradiction",
            key="chain.stages",
            help="give both stages the same lora",
        )
    for leaf in ("lora_A", "lora_B"):
        getattr(one, leaf)["default"].weight = getattr(other, leaf)["default"].weight


def merge_adapters(model: nn.Module) -> int:
    """Add every adapter to the weights under it and remove it; returns how many. Tied weights get theirs once."""
    if importlib.util.find_spec("peft") is None:
        return 0
    from peft.tuners.lora import LoraLayer

    merged: set[int] = set()
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, module in found:
        layer: Any = module
        base: nn.Module = layer.get_base_layer()
        weight = base.weight
        if id(weight) not in merged:
            layer.merge()
            merged.add(id(weight))
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, base)
        base.requires_grad_(False)
    return len(found)

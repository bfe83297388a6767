"""Puts 8-bit linear layers in the place of those of a model's blocks, and measures what that brings on this machine.

Embeddings and heads, output layers over a vocabulary included, stay as they are: they decide, and embeddings multiply
nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from chainft.errors import ConfigError, ModelError
from chainft.stages.int8 import LARGEST, Int8Linear, LatestInput, quantise
from chainft.stages.links_parts import blocks_of

WHERE = "--precision int8"
_TOKENS = 128
_MOST_REPEATS = 20
_SECONDS = 0.05
"""After this time, measuring ends."""


@dataclass(frozen=True)
class Gain:
    """What 8 bits bring in the largest layer, with 128 tokens."""

    num_layers: int
    """That are 8-bit ones now."""
    inputs: int
    outputs: int
    speedup: float
    """Seconds in float32 by seconds in 8 bits."""


Made = dict[tuple[int, int], Int8Linear]
"""8-bit layers by the ids of weight and bias of what they stand for."""


def to_int8(model: PreTrainedModel) -> Gain:
    """Make the linear layers of the blocks 8-bit ones, in place; for prediction alone.

    Raises ConfigError for a model, device or processor with which that cannot be.
    """
    layers = _layers(model)
    _check(model, layers)
    largest = max(layers.values(), key=lambda layer: layer.weight.numel())
    latest = LatestInput()
    made: Made = {}
    speedup = _speedup(largest, _made(largest, LatestInput(), {}))
    for path, layer in layers.items():
        model.set_submodule(path, _made(layer, latest, made))
    new = _made(largest, latest, made)
    return Gain(len(layers), new.in_features, new.out_features, speedup)


def _layers(model: PreTrainedModel) -> Mapping[str, nn.Linear | Conv1D]:
    """Path -> linear layer of a block. Classes derived from `Linear` may compute something else."""
    try:
        blocks = blocks_of(model)
    except ModelError as error:
        raise ConfigError(
            f"{WHERE} is not possible: chainft does not find the blocks of {type(model).__name__}",
            slug="unsupported-by-model",
            where=WHERE,
            help="leave it away",
        ) from error
    found: dict[str, nn.Linear | Conv1D] = {}
    for path in dict.fromkeys(blocks.path_of(block) for block in range(blocks.num_blocks)):
        for name, module in model.get_submodule(path).named_modules(remove_duplicate=False):
            if type(module) is nn.Linear or type(module) is Conv1D:
                found[f"{path}.{name}"] = module
    return found


def _check(model: PreTrainedModel, layers: Mapping[str, nn.Linear | Conv1D]) -> None:
    if model.device.type != "cpu":
        raise ConfigError(
            f"{WHERE} computes on CPUs, and the model is on {model.device.type}",
            slug="unsupported-by-device",
            where=WHERE,
            help="leave it away; 'chainft evaluate' takes train.device=cpu, 'chainft predict' and 'chat' the CPU where "
            "CUDA_VISIBLE_DEVICES is empty",
        )
    if not layers:
        raise ConfigError(
            f"{WHERE} has no effect: chainft knows no linear layer in the blocks of {type(model).__name__}",
            slug="no-effect",
            where=WHERE,
            help="leave it away",
        )
    other = [path for path, layer in layers.items() if layer.weight.dtype != torch.float32]
    if other:
        raise ConfigError(
            f"{WHERE} needs weights in float32, and {other[0]} is in {str(layers[other[0]].weight.dtype)[6:]}",
            slug="unsupported-by-model",
            where=WHERE,
            help="leave it away for runs with stages that have a dtype of their own",
        )
    if not _is_exact():
        raise ConfigError(
            f"{WHERE} is not possible: products of 8-bit integers overflow on this processor with torch "
            f"{torch.__version__}",
            slug="unsupported-by-machine",
            where=WHERE,
            help="leave it away",
        )


def _is_exact() -> bool:
    """Whether sums of the greatest products are right: processors without VNNI may add pairs of them in 16 bits."""
    values = torch.full((4, 64), LARGEST, dtype=torch.int8)
    signs = torch.tensor([[1], [-1], [1], [-1]], dtype=torch.int8)
    expected = (values * signs).long() @ values.long().t()
    return torch.equal(torch._int_mm(values * signs, values.t()).long(), expected)


def _made(layer: nn.Linear | Conv1D, latest: LatestInput, made: Made) -> Int8Linear:
    """The 8-bit layer of a layer; the same for layers that share their weight and their bias."""
    key = id(layer.weight), id(layer.bias)
    if key not in made:
        weight = layer.weight.detach()
        bias = None if layer.bias is None else layer.bias.detach()
        matrix = weight.t().contiguous() if isinstance(layer, Conv1D) else weight
        made[key] = Int8Linear(quantise(matrix), bias, latest).train(layer.training)
    return made[key]


def _speedup(layer: nn.Module, other: Int8Linear) -> float:
    """Measured in turn, so that other load hits both; the least time of each counts."""
    inputs = torch.randn(_TOKENS, other.in_features, generator=torch.Generator().manual_seed(0))
    seconds: dict[nn.Module, list[float]] = {layer: [], other: []}
    with torch.inference_mode():
        while len(seconds[other]) < _MOST_REPEATS and sum(map(sum, seconds.values())) < _SECONDS:
            for one, taken in seconds.items():
                fresh = inputs.clone()  # What was quantised already would not be quantised again.
                started = time.perf_counter()
                one(fresh)
                taken.append(time.perf_counter() - started)
    return min(seconds[layer]) / min(seconds[other])

"""Seconds that each block of a model takes, forward and backward: what `chain.split=auto` makes equal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chainft.stages.blocks import find_blocks
from chainft.stages.trunk import logits_of

REPEATS = 3


def block_seconds(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> list[float]:
    """Forward and backward seconds of each block on this batch, the least of `REPEATS` passes; gradients are dropped.

    Blocks that are gone through several times (ALBERT) share their time equally.
    """
    blocks = find_blocks(model)
    best = [float("inf")] * blocks.num_blocks
    paths = [blocks.path_of(block) for block in range(blocks.num_blocks)]
    for _ in range(REPEATS):
        spent = _one_pass(model, {path: model.get_submodule(path) for path in dict.fromkeys(paths)}, inputs)
        best = [min(old, spent[path] / paths.count(path)) for old, path in zip(best, paths, strict=True)]
    model.zero_grad(set_to_none=True)
    return best


def block_bytes(model: PreTrainedModel) -> list[float]:
    """Bytes of each block's parameters."""
    blocks = find_blocks(model)
    modules = [blocks.module(block) for block in range(blocks.num_blocks)]
    return [float(sum(p.numel() * p.element_size() for p in module.parameters())) for module in modules]


def _one_pass(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], inputs: Mapping[str, Tensor]
) -> dict[str, float]:
    spent = dict.fromkeys(modules, 0.0)
    started: dict[str, float] = {}

    def start(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            _wait(model)
            started[path] = time.perf_counter()

        return hook

    def stop(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            _wait(model)
            spent[path] += time.perf_counter() - started[path]

        return hook

    handles = []
    for path, module in modules.items():
        handles += [module.register_forward_pre_hook(start(path)), module.register_forward_hook(stop(path))]
        handles.append(module.register_full_backward_pre_hook(start(path)))
        handles.append(module.register_full_backward_hook(stop(path)))
    try:
        output = model(**inputs)
        torch.autograd.backward([logits.float().sum() for logits in logits_of(output)])
    finally:
        for handle in handles:
            handle.remove()
    return spent


def _wait(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)

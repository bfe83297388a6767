"""What is gathered together where a model is sharded: one rule for training (FSDP2) and for the plan."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from chainft.errors import ModelError
from chainft.stages.links_parts import blocks_of


def shard_units(model: PreTrainedModel) -> Iterator[list[nn.Module]]:
    """Blocks, those that share parameters together; one that shares some with the shell stays with it, the outermost."""
    try:
        blocks = blocks_of(model)
    except ModelError:
        return  # A model whose blocks cannot be told apart is one unit.
    owners: dict[int, set[int]] = {}
    modules = list(dict.fromkeys(blocks.module(number) for number in range(blocks.num_blocks)))
    modules = [module for module in modules if next(module.parameters(), None) is not None]  # Others' are empty.
    place = {id(parameter): -1 for parameter in _shell_parameters(model, modules)}
    for number, module in enumerate(modules):
        for parameter in module.parameters():
            owners.setdefault(id(parameter), set()).add(number)
    groups = list(range(len(modules)))
    for key, several in owners.items():
        together = {groups[number] for number in several} | ({-1} if key in place else set())
        groups = [min(together) if group in together else group for group in groups]
    for group in sorted({one for one in groups if one >= 0}):
        yield [module for module, one in zip(modules, groups, strict=True) if one == group]


def _shell_parameters(model: nn.Module, blocks: list[nn.Module]) -> Iterator[nn.Parameter]:
    inside = {id(module) for block in blocks for module in block.modules()}
    for module in model.modules():
        if id(module) not in inside:
            yield from module.parameters(recurse=False)

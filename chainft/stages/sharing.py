"""Parameters that are one tensor in several places: declared ties, and blocks that are run again.

A tie puts the same `nn.Parameter` object into both modules, so that gradients add up, optimizers see it once and
checkpoints store it once. A model folder must be plain Hugging Face, which knows no such ties: there both places have
their copy, `chainft.json` lists the ties, and loading refuses copies that differ.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from chainft.errors import ConfigError, ModelError
from chainft.stages.blocks import Blocks, find_blocks
from chainft.stages.skeleton import shapes_by_config

Ties = Mapping[str, str]
"""Parameter name -> name of the parameter that it is."""


def tie(model: nn.Module, name: str, to: str) -> None:
    """Make parameter `name` the same object as parameter `to`."""
    module, _, leaf = name.rpartition(".")
    owner, _, theirs = to.rpartition(".")
    setattr(model.get_submodule(module), leaf, getattr(model.get_submodule(owner), theirs))


def tie_blocks(
    blocks: Blocks, pairs: Iterable[tuple[int, int]], *, pattern: str | None, stage: str, other: str
) -> dict[str, str]:
    """Tie each first block of `pairs` to the second; with `pattern`, only parameters whose name in the block matches.

    Returns the ties. Raises ConfigError where shapes differ or no parameter matches.
    """
    ties: dict[str, str] = {}
    for mine, theirs in pairs:
        parameters = dict(blocks.module(theirs).named_parameters(remove_duplicate=False))
        for name, parameter in list(blocks.module(mine).named_parameters(remove_duplicate=False)):
            if pattern is not None and not re.fullmatch(pattern, name):
                continue
            _check_shapes(name, parameter, parameters.get(name), stage, other)
            ties[f"{blocks.path_of(mine)}.{name}"] = f"{blocks.path_of(theirs)}.{name}"
    if not ties:
        names = ", ".join(name for name, _ in blocks.module(0).named_parameters())
        raise ConfigError(
            f"chain.stages.{stage}.share.parameters = {pattern!r} matches no parameter of a block",
            slug="no-match",
            key=f"chain.stages.{stage}.share.parameters",
            help=f"the names within a block are: {names}",
        )
    for name, to in ties.items():
        tie(blocks.model, name, to)
    return ties


def check_ties(model: nn.Module, ties: Ties) -> None:
    """Raise ConfigError where sharing took repeated blocks apart: each repetition got another block's parameters."""
    for name, to in ties.items():
        if model.get_parameter(name) is not model.get_parameter(to):
            raise ConfigError(
                f"{name} and {to} are one block that is repeated, but by share they would be different blocks",
                slug="contradiction",
                key="chain.stages",
                help="let the stage that shares have the same blocks and repeat as the one that it shares with",
            )


def _check_shapes(name: str, mine: Tensor, theirs: Tensor | None, stage: str, other: str) -> None:
    if theirs is not None and theirs.shape == mine.shape:
        return
    there = "does not have it" if theirs is None else f"has {list(theirs.shape)}"
    raise ConfigError(
        f"stage {stage!r} cannot share {name} with {other!r}: it has {list(mine.shape)}, {other!r} {there}",
        slug="unlike-shapes",
        key=f"chain.stages.{stage}.share",
        help="share only parameters of equal shapes: share.parameters takes a regular expression",
    )


def unroll(model: PreTrainedModel, order: Sequence[int]) -> dict[str, str]:
    """Make `order` (old block numbers) the model's blocks; a block that comes again is a copy with tied parameters.

    The model stays one that transformers can build from its config, which gets the new number of blocks. Returns the
    ties. Raises ConfigError for architectures whose blocks differ by their place, and for encoder-decoders.
    """
    blocks = find_blocks(model)
    if len(blocks.stacks) > 1 or blocks.stacks[0].size != blocks.stacks[0].entries:
        raise _unrepeatable(model, "it has two stacks of blocks, or shares blocks already")
    stack = model.get_submodule(blocks.stacks[0].path)
    old = [blocks.module(block) for block in range(blocks.num_blocks)]
    new = nn.ModuleList()
    ties: dict[str, str] = {}
    first: dict[int, int] = {}
    for place, block in enumerate(order):
        if block in first:
            module = _tied_copy(old[block])
            path, origin = f"{blocks.stacks[0].path}.{place}", f"{blocks.stacks[0].path}.{first[block]}"
            ties |= {f"{path}.{name}": f"{origin}.{name}" for name, _ in module.named_parameters()}
        else:
            module, first[block] = old[block], place
        new.append(_numbered(module, place))
    _check_uniform(model, old)
    parent, _, leaf = blocks.stacks[0].path.rpartition(".")
    assert isinstance(stack, nn.ModuleList)
    setattr(model.get_submodule(parent), leaf, new)
    _set_depth(model, len(order), order)
    _check_depth(model)
    return ties


def _tied_copy(block: nn.Module) -> nn.Module:
    """A copy whose parameters are the block's own objects."""
    memo: dict[int, Any] = {id(parameter): parameter for parameter in block.parameters()}
    return copy.deepcopy(block, memo)


def _numbered(block: nn.Module, place: int) -> nn.Module:
    """Key-value caches tell blocks apart by their number."""
    for module in block.modules():
        if isinstance(getattr(module, "layer_idx", None), int):
            module.layer_idx = place  # type: ignore[assignment]
    return block


def _check_uniform(model: PreTrainedModel, blocks: Sequence[nn.Module]) -> None:
    """Blocks must be alike in all but their weights, or the config could not say which one comes where."""
    kinds = {_plain_attributes(block) for block in blocks}
    if len(kinds) > 1:
        raise _unrepeatable(model, "its blocks differ by their place, for example in the kind of attention")


def _plain_attributes(block: nn.Module) -> str:
    found = []
    for path, module in block.named_modules():
        plain = {
            name: value
            for name, value in vars(module).items()
            if not name.startswith("_") and name != "layer_idx" and isinstance(value, bool | int | float | str)
        }
        found.append((path, type(module).__name__, sorted(plain.items())))
    return repr(found)


def _set_depth(model: PreTrainedModel, depth: int, order: Sequence[int]) -> None:
    config = model.config
    name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    setattr(config, name, depth)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[block] for block in order]


def copy_depth(source: PreTrainedConfig, target: PreTrainedConfig) -> None:
    """Give a config of the same architecture the number and kinds of blocks of another."""
    name = source.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    setattr(target, name, getattr(source, name))
    if getattr(source, "layer_types", None):
        target.layer_types = list(source.layer_types)


def _check_depth(model: PreTrainedModel) -> None:
    """Nothing outside of the blocks may depend on their number, as ESM's head for contacts does: a weight a block."""
    shapes = shapes_by_config(model)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if shapes.get(name, parameter.shape) != parameter.shape:
            raise _unrepeatable(model, f"the shape of {name} depends on the number of blocks")


def _unrepeatable(model: PreTrainedModel, because: str) -> ConfigError:
    return ConfigError(
        f"{type(model).__name__} cannot repeat a stage: {because}",
        slug="unsupported-by-model",
        key="chain.stages",
        help="leave repeat away, or take an architecture with one stack of like blocks (BERT, Llama, GPT-2, ...)",
    )


def untied_state(model: nn.Module, ties: Ties) -> dict[str, Tensor] | None:
    """The state of a model with its own copy in every declared place, for a folder that plain transformers reads.

    None where nothing but the model's own ties exists, which transformers saves by itself.
    """
    if not ties:
        return None
    return {name: value.clone() if name in ties else value for name, value in model.state_dict().items()}


def retie(model: nn.Module, ties: Ties, *, where: str) -> None:
    """Tie again what was saved as copies. Raises ModelError where a copy is not equal to its original."""
    for name, to in ties.items():
        mine, theirs = _parameter(model, name, where), _parameter(model, to, where)
        if mine is not theirs and not torch.equal(mine, theirs):
            raise ModelError(
                f"{name} and {to} were one parameter when the model was saved, and now differ",
                slug="broken-tie",
                where=where,
                help="bring the original model.safetensors back; another tool changed one of them",
            )
        tie(model, name, to)


def _parameter(model: nn.Module, name: str, where: str) -> nn.Parameter:
    try:
        return model.get_parameter(name)
    except AttributeError as error:
        raise ModelError(
            f"chainft.json ties {name}, which the model does not have", slug="broken-tie", where=where
        ) from error


def shared_names(model: nn.Module) -> Iterator[tuple[str, ...]]:
    """All names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    yield from (tuple(several) for several in names.values() if len(several) > 1)

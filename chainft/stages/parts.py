"""The parameters and modules of each stage of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedModel

from chainft.config.chain import StageConfig
from chainft.stages.blocks import Blocks
from chainft.stages.owners import EMBEDDINGS, trace
from chainft.stages.spans import Span


@dataclass(frozen=True)
class Part:
    """The part of a model that a stage is."""

    name: str
    config: StageConfig
    parameters: Mapping[str, nn.Parameter]
    """All its parameters by every name they have; a shared one is in the first stage that computes with it."""
    modules: Sequence[nn.Module]
    """The modules that compute it, outermost ones."""
    blocks: Sequence[str]
    """Paths of its blocks."""
    head: frozenset[str] = frozenset()
    """Names of its parameters that are the model's head."""
    containers: Sequence[nn.Module] = ()
    """Modules around blocks that drop of the embeddings themselves, and not by a module of their own (BART)."""

    @property
    def key(self) -> str:
        return f"chain.stages.{self.name}"


def parts_of(blocks: Blocks, spans: Mapping[str, Span], settings: Mapping[str, StageConfig]) -> list[Part]:
    """The stages with their parameters: each parameter in the first stage that computes with it."""
    units, callers = trace(blocks.model)
    parameters: dict[str, dict[str, nn.Parameter]] = {name: {} for name in spans}
    first: dict[int, str] = {}
    for name, parameter in blocks.model.named_parameters(remove_duplicate=False):
        stage = first.setdefault(id(parameter), _stage_at(units[name], spans, blocks.num_blocks))
        parameters[stage][name] = parameter
    paths = {name: [blocks.path_of(block) for block in span.blocks] for name, span in spans.items()}
    stages = {path: _stage_at(unit, spans, blocks.num_blocks) for path, unit in callers.items()}
    shells = _shell_modules(blocks, parameters, stages)
    containers = _containers(blocks, spans)
    return [
        Part(
            name,
            settings[name],
            parameters[name],
            [*(blocks.model.get_submodule(path) for path in dict.fromkeys(paths[name])), *shells[name]],
            list(dict.fromkeys(paths[name])),
            frozenset(one for one in parameters[name] if units[one] == blocks.num_blocks),
            containers[name],
        )
        for name in spans
    ]


def _stage_at(unit: int, spans: Mapping[str, Span], num_blocks: int) -> str:
    for name, span in spans.items():
        if unit in span.blocks or (unit < 0 and span.embeddings) or (unit >= num_blocks and span.head):
            return name
    raise ValueError(f"unit {unit} is in no stage of {dict(spans)}")


def _shell_modules(
    blocks: Blocks, parameters: Mapping[str, Mapping[str, nn.Parameter]], callers: Mapping[str, str]
) -> dict[str, list[nn.Module]]:
    """Modules outside of the blocks, each with the one stage that all its parameters are in.

    A module without parameters, such as dropout, is in the stage of `callers`, where it is called first.
    """
    stage_of = {name: stage for stage, names in parameters.items() for name in names}
    lists = tuple(f"{stack.path}." for stack in blocks.stacks)
    found: dict[str, list[nn.Module]] = {stage: [] for stage in parameters}

    last = list(parameters)[-1]

    def visit(path: str, module: nn.Module) -> None:
        inside = {stage for name, stage in stage_of.items() if name.startswith(f"{path}.")}
        holds_blocks = any(one.startswith(f"{path}.") for one in lists)
        if len(inside) <= 1 and not holds_blocks:
            found[next(iter(inside), callers.get(path, last))].append(module)
            return
        for name, child in module.named_children():
            below = f"{path}.{name}"
            if not any(one == f"{below}." for one in lists):
                visit(below, child)

    for name, child in blocks.model.named_children():
        visit(name, child)
    return found


def _containers(blocks: Blocks, spans: Mapping[str, Span]) -> dict[str, list[nn.Module]]:
    found: dict[str, list[nn.Module]] = {stage: [] for stage in spans}
    start = 0
    for number, stack in enumerate(blocks.stacks):
        stage = _stage_at(start if number else EMBEDDINGS, spans, blocks.num_blocks)
        for path, module in blocks.model.named_modules():
            if f"{stack.path}.".startswith(f"{path}.") and any(dropout_numbers(module)):
                found[stage].append(module)
        start += stack.size
    return found


def dropout_numbers(module: nn.Module) -> Iterator[str]:
    """Attributes in which a module keeps a dropout rate as a number."""
    for name, value in vars(module).items():
        if "dropout" in name and isinstance(value, float | int) and not isinstance(value, bool):
            yield name


def parts_with_adapters(model: PreTrainedModel, parts: Sequence[Part]) -> list[Part]:
    """The same stages after adapters were put into their blocks: new parameters, and new names of old ones."""
    owner = {id(parameter): part.name for part in parts for parameter in part.parameters.values()}
    found: dict[str, dict[str, nn.Parameter]] = {part.name: {} for part in parts}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in owner:
            owner[id(parameter)] = next(
                part.name for part in parts if any(name.startswith(f"{path}.") for path in part.blocks)
            )
        found[owner[id(parameter)]][name] = parameter
    return [replace(part, parameters=found[part.name]) for part in parts]

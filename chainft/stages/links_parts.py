"""Linked models as a chain sees them: their blocks in one row, and the parameters of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from chainft.config.chain import StageConfig
from chainft.stages.blocks import Blocks, find_blocks
from chainft.stages.gates import Gates
from chainft.stages.links import LinkedModel, stage_of
from chainft.stages.links_config import StageModelConfig
from chainft.stages.owners import live
from chainft.stages.parts import Part
from chainft.stages.spans import Span


def blocks_of(model: PreTrainedModel) -> Blocks:
    """The blocks of a model; those of linked models stage after stage, each a stack of its own."""
    if not isinstance(model, LinkedModel):
        return find_blocks(model)
    stacks = []
    for name, stage in model.stages.items():
        assert isinstance(stage, PreTrainedModel)
        stack = find_blocks(stage).stacks[0]
        stacks.append(replace(stack, name=name, path=f"stages.{name}.{stack.path}"))
    return Blocks(model, tuple(stacks))


def linked_spans(model: LinkedModel) -> dict[str, Span]:
    """Each stage's blocks among those of all stages; every model has embeddings of its own, the last stage the head."""
    block_map = blocks_of(model).map
    names = list(block_map.stacks)
    starts = {name: block_map.start_of(name) for name in names}
    return {
        name: Span(
            start, start + block_map.stacks[name], embeddings=_reads_tokens(model, name), head=_has_head(model, name)
        )
        for name, start in starts.items()
    }


def linked_parts(model: LinkedModel, settings: Mapping[str, StageConfig]) -> list[Part]:
    """The stages with their parameters, connector and mix included: a shared one in the first stage that has it."""
    blocks = blocks_of(model)
    owner: dict[int, str] = {}
    parameters: dict[str, dict[str, nn.Parameter]] = {name: {} for name in settings}
    for name, parameter in sorted(
        model.named_parameters(remove_duplicate=False), key=lambda item: _place(item[0], model)
    ):
        parameters[owner.setdefault(id(parameter), stage_of(name))][name] = parameter
    return [
        Part(
            name,
            settings[name],
            parameters[name],
            [part[name] for part in (model.stages, model.connectors, model.mixes) if name in part],
            [blocks.path_of(block) for block in span.blocks],
            frozenset(one for one in parameters[name] if _is_head(one, model)),
        )
        for name, span in linked_spans(model).items()
    ]


def rest_what_is_replaced(model: LinkedModel) -> None:
    """Never train what has no say: a stage that receives hidden states, and does not add them, ignores its embeddings."""
    for name, link in model.links.items():
        if link.sources and not link.residual:
            stage = model.stages[name]
            assert isinstance(stage, PreTrainedModel)
            gates = Gates(stage)
            needed = live(gates, Span(0, gates.blocks.num_blocks, embeddings=False, head=True))
            for own, parameter in stage.named_parameters(remove_duplicate=False):
                if own not in needed:
                    parameter.requires_grad_(False)


def _place(name: str, model: LinkedModel) -> int:
    return list(model.links).index(stage_of(name))


def _reads_tokens(model: LinkedModel, name: str) -> bool:
    return not isinstance(model.stages[name].config, StageModelConfig)


def _has_head(model: LinkedModel, name: str) -> bool:
    stage = model.stages[name]
    return isinstance(stage, PreTrainedModel) and stage.base_model is not stage


def _is_head(name: str, model: LinkedModel) -> bool:
    """Whether a parameter is outside of the body of a stage that has a head."""
    group, stage, inside = name.split(".", 2)
    if group != "stages" or not _has_head(model, stage):
        return False
    found = model.stages[stage]
    assert isinstance(found, PreTrainedModel)
    return not inside.startswith(f"{found.base_model_prefix}.")

"""What a training step of a chain costs: bytes and FLOPs of each stage, and the most memory that is taken at once.

The peak follows the step: at every operation of the forward and backward pass the weights, the optimizer's state, the
gradients made so far and the activations that are alive then; in the update weights, gradients, state and what the
optimizer takes for a moment. Not in it: the program itself, the data, and what an allocator keeps for later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from chainft.config.run import RunConfig
from chainft.plan.balance import balanced_cuts
from chainft.plan.measure import Step, measure_step
from chainft.plan.optimizer_state import MakeOptimizer, OptimizerForms
from chainft.plan.probe import NUM_LABELS, checked_length, ghostly, has_labels, make_batch, new_skeleton, new_task
from chainft.stages.blocks import Blocks, find_blocks
from chainft.stages.chain import Chain, build_chain, is_trivial
from chainft.stages.links import LinkedModel
from chainft.stages.links_config import Link
from chainft.stages.links_load import check_models
from chainft.stages.measure import block_bytes
from chainft.stages.parts import Part
from chainft.stages.policy import recompute_all
from chainft.stages.spans import Span, equal_spans
from chainft.tasks.base import Task

Holds = Callable[[int], bool]
"""Whether a unit of the trace is in a stage."""


@dataclass(frozen=True)
class Asked:
    """For what the plan is made, beside the config."""

    length: int | None = None
    """Tokens of each sequence; None: the most that the model takes."""
    num_labels: int | None = None
    """Classes of the head, where the task has labels."""


@dataclass(frozen=True)
class Bytes:
    """Memory by what it is for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """What the forward pass keeps for the backward pass."""


@dataclass(frozen=True)
class StageCost:
    """One stage of the plan."""

    name: str
    blocks: str
    num_parameters: int
    num_trainable: int
    shared_with: tuple[str, ...]
    sources: tuple[str, ...]
    """The stages whose hidden states it reads."""
    memory: Bytes
    flops_forward: int
    """Floating-point operations of one update, over all of its micro-batches."""
    flops_backward: int
    time_share: float
    """Its part of the FLOPs of the whole step."""


@dataclass(frozen=True)
class Peak:
    """The moment of a step with the most memory."""

    total: int
    phase: Literal["forward", "backward", "update"]
    temporaries: int
    """Beside weights, gradients, state and kept activations as they are at that moment."""
    gradients: int
    activations: int


@dataclass(frozen=True)
class Budget:
    """The plan."""

    model: str
    task: str
    optimizer: str
    batch_size: int
    micro_batch_size: int
    length: int
    num_labels: int | None
    """None: the task has no labels."""
    mixed_precision: str
    stages: tuple[StageCost, ...]
    total: StageCost
    peak: Peak

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return dataclasses.asdict(self)


def make_budget(config: RunConfig, optimizer: MakeOptimizer, asked: Asked) -> Budget:
    """The plan of a config; no weights are read. Raises ChainftError for what does not fit together."""
    check_models(config)
    num_labels = asked.num_labels or NUM_LABELS
    task = new_task(config, num_labels)
    length = checked_length(config, task, asked.length)
    rows = min(config.train.micro_batch_size or config.train.batch_size, config.train.batch_size)
    tokens = config.train.micro_batch_tokens
    size = (max(1, min(rows, tokens // length)) if tokens else rows, length)
    chain = new_chain(config, task, size)
    blocks = None if is_trivial(config.chain) or config.chain.is_linked else find_blocks(chain.model)
    step = _measure(chain, task, config, blocks, size)
    return _budget(config, chain, step, OptimizerForms(optimizer), (task, size, num_labels))


def new_chain(config: RunConfig, task: Task, size: tuple[int, int]) -> Chain:
    """The chain on a model without weights, cut by FLOPs or bytes where the config says `split: auto`."""
    with ghostly():
        cuts = _automatic_cuts(config, task, size)
        chain = build_chain(new_skeleton(config, task), without_imports(config), cuts=cuts)
        if config.train.gradient_checkpointing:
            recompute_all(chain.model)
        chain.set_recomputation()
    return chain


def without_imports(config: RunConfig) -> RunConfig:
    """The config without weights of earlier runs, which change no shape."""
    stages = {name: dataclasses.replace(stage, from_=None) for name, stage in config.chain.stages.items()}
    return dataclasses.replace(config, chain=dataclasses.replace(config.chain, stages=stages))


def _automatic_cuts(config: RunConfig, task: Task, size: tuple[int, int]) -> list[int] | None:
    """Where `split: auto` would cut if time were FLOPs; training measures seconds."""
    count = config.chain.num_stages
    if config.chain.split != "auto" or count is None:
        return None
    model = new_skeleton(config, task)
    blocks = find_blocks(model)
    if count > blocks.num_blocks:
        equal_spans(blocks.map, count)  # Raises what it raises for a number given outright.
    if config.chain.balance == "memory":
        return balanced_cuts(block_bytes(model), count)
    whole = dataclasses.replace(config, chain=type(config.chain)())
    step = _measure(build_chain(model, whole), task, config, blocks, size)
    both = [step.flops.get((unit, "forward"), 0) + step.flops.get((unit, "backward"), 0) for unit in _units(blocks)]
    return balanced_cuts(both, count)


def _units(blocks: Blocks) -> range:
    return range(blocks.num_blocks)


def _measure(chain: Chain, task: Task, config: RunConfig, blocks: Blocks | None, size: tuple[int, int]) -> Step:
    mixed = config.train.mixed_precision != "no"
    return measure_step(
        chain, task, lambda rows, length: make_batch(task, rows, length), blocks=blocks, size=size, mixed=mixed
    )


def _budget(
    config: RunConfig, chain: Chain, step: Step, forms: OptimizerForms, facts: tuple[Task, tuple[int, int], int]
) -> Budget:
    task, (rows, length), num_labels = facts
    stages = _stages(chain, step, forms, config.train.batch_size / rows)
    total = _total(stages)
    trained = [parameter for parameter in chain.model.parameters() if chain.trains(parameter)]
    accumulates = config.train.batch_size > rows
    peak = _peak(total.memory, step, forms.temporaries(trained), accumulates=accumulates)
    return Budget(
        model=type(chain.model).__name__,
        task=task.config.name,
        optimizer=config.optimizer.name,
        batch_size=config.train.batch_size,
        micro_batch_size=rows,
        length=length,
        num_labels=num_labels if has_labels(task) else None,
        mixed_precision=config.train.mixed_precision,
        stages=tuple(stages),
        total=total,
        peak=peak,
    )


def _stages(chain: Chain, step: Step, forms: OptimizerForms, times: float) -> list[StageCost]:
    holds = {part.name: _holding(part, chain) for part in chain.parts}
    flops = {part.name: _flops(holds[part.name], step, times) for part in chain.parts}
    whole = sum(sum(one) for one in flops.values()) or 1
    return [
        StageCost(
            name=part.name,
            blocks=facts["blocks"],
            num_parameters=facts["parameters"],
            num_trainable=facts["trainable"],
            shared_with=tuple(facts["shared_with"]),
            sources=_sources(number, chain),
            memory=_memory(
                part, chain, sum(size for unit, size in step.kept.items() if holds[part.name](unit)), forms
            ),
            flops_forward=flops[part.name][0],
            flops_backward=flops[part.name][1],
            time_share=sum(flops[part.name]) / whole,
        )
        for number, (part, facts) in enumerate(zip(chain.parts, chain.describe(), strict=True))
    ]


def _memory(part: Part, chain: Chain, kept: float, forms: OptimizerForms) -> Bytes:
    distinct = list({id(parameter): parameter for parameter in part.parameters.values()}.values())
    trained = [parameter for parameter in distinct if chain.trains(parameter)]
    return Bytes(
        weights=_size(distinct),
        gradients=_size(trained),
        optimizer=sum(forms.of(parameter).bytes_of(parameter) for parameter in trained),
        activations=round(kept),
    )


def _sources(number: int, chain: Chain) -> tuple[str, ...]:
    links = _links(chain)
    return links[chain.parts[number].name].sources if links else tuple(p.name for p in chain.parts[:number][-1:])


def _links(chain: Chain) -> Mapping[str, Link]:
    """The stages where they are linked models; a saved folder of these may also be one whole model."""
    links = chain.model.links if isinstance(chain.model, LinkedModel) else {}
    return links if list(links) == list(chain.spans) else {}


def _flops(holds: Holds, step: Step, times: float) -> tuple[int, int]:
    both: Mapping[str, float] = {
        phase: sum(count for (unit, when), count in step.flops.items() if when == phase and holds(unit))
        for phase in ("forward", "backward")
    }
    return round(both["forward"] * times), round(both["backward"] * times)


def _holding(part: Part, chain: Chain) -> Holds:
    """Whether a unit is in a stage: of linked models they are the stages themselves."""
    if links := _links(chain):
        number = list(links).index(part.name)
        return lambda unit: max(unit, 0) == number
    return partial(_is_within, chain.spans[part.name])


def _is_within(span: Span, unit: int) -> bool:
    """Of one model, -1 is the embeddings, and behind the last block comes the head."""
    return unit in span.blocks or (unit < 0 and span.embeddings) or (unit >= span.stop and span.head)


def _total(stages: Sequence[StageCost]) -> StageCost:
    memory = Bytes(
        **{
            field.name: sum(getattr(stage.memory, field.name) for stage in stages)
            for field in dataclasses.fields(Bytes)
        }
    )
    return StageCost(
        name="total",
        blocks="",
        num_parameters=sum(stage.num_parameters for stage in stages),
        num_trainable=sum(stage.num_trainable for stage in stages),
        shared_with=(),
        sources=(),
        memory=memory,
        flops_forward=sum(stage.flops_forward for stage in stages),
        flops_backward=sum(stage.flops_backward for stage in stages),
        time_share=1.0,
    )


def _peak(memory: Bytes, step: Step, update: float, *, accumulates: bool) -> Peak:
    """`update`: bytes that the optimizer takes for a moment; `accumulates`: gradients are there from the start."""
    always = memory.weights + memory.optimizer
    gradients = memory.gradients + 0 * step.gradients if accumulates else step.gradients
    at = int((step.alive + gradients).argmax())
    passes, final = always + step.alive[at] + gradients[at], always + memory.gradients + update
    if final > passes:
        return Peak(round(final), "update", round(update), memory.gradients, 0)
    kept = min(memory.activations, step.alive[at])
    return Peak(
        total=round(passes),
        phase="forward" if at < step.num_forward else "backward",
        temporaries=round(step.alive[at] - kept),
        gradients=round(gradients[at]),
        activations=round(kept),
    )


def _size(parameters: Sequence[nn.Parameter | torch.Tensor]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

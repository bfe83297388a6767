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
from chainft.plan.followed import Asked, Followed, follow
from chainft.plan.measure import Step
from chainft.plan.optimizer_state import MakeOptimizer, OptimizerForms
from chainft.plan.probe import has_labels
from chainft.stages.chain import Chain
from chainft.stages.links import LinkedModel
from chainft.stages.links_config import Link
from chainft.stages.parts import Part
from chainft.stages.spans import Span

Holds = Callable[[int], bool]
"""Whether a unit of the trace is in a stage."""


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
    return budget_of(follow(config, asked), OptimizerForms(optimizer))


def budget_of(followed: Followed, forms: OptimizerForms) -> Budget:
    """The plan of a step that was followed, as one process does it."""
    config, chain, step, task = followed.config, followed.chain, followed.step, followed.task
    stages = _stages(chain, step, forms, followed.parts_of_batch)
    total = _total(stages)
    trained = [parameter for parameter in chain.model.parameters() if chain.trains(parameter)]
    peak = peak_of(total.memory, step, forms.temporaries(trained), accumulates=followed.num_micro_batches > 1)
    return Budget(
        model=type(chain.model).__name__,
        task=task.config.name,
        optimizer=config.optimizer.name,
        batch_size=config.train.batch_size,
        micro_batch_size=followed.rows,
        length=followed.length,
        num_labels=followed.num_labels if has_labels(task) else None,
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
        for phase in ("forward", "backward", "recomputed")
    }
    return round(both["forward"] * times), round((both["backward"] + both["recomputed"]) * times)


def _holding(part: Part, chain: Chain) -> Holds:
    """Whether a unit is in a stage: of linked models they are the stages themselves."""
    if links := _links(chain):
        number = list(links).index(part.name)
        return lambda unit: max(unit, 0) == number
    return partial(is_within, chain.spans[part.name])


def is_within(span: Span, unit: int) -> bool:
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


def peak_of(memory: Bytes, step: Step, update: float, *, accumulates: bool) -> Peak:
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

"""What a run on many devices takes: memory and communication of every rank, bubble, and time of a step, on paper.

Time is operations by the attained rate of a device and bytes by the bandwidth of a link. Nothing overlaps but what
chainft itself runs side by side (messages of a pipeline), so the time of FSDP2's exchanges, which on GPUs partly hides
behind computation, is the most it can be. Rank = place x copies + copy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from chainft.plan.division import StageFacts, divide
from chainft.plan.exchange import message
from chainft.plan.followed import Followed
from chainft.plan.machine import Machine
from chainft.plan.optimizer_state import OptimizerForms
from chainft.plan.pipeline_schedule import Schedule, StageCost, make_schedule, splits_backward
from chainft.plan.rank_memory import Own, RankMemory, rank_memory
from chainft.plan.replay import Edge, replay
from chainft.plan.traffic import Traffic, Wires, gathering, traffic


@dataclass(frozen=True)
class Place:
    """Ranks that do the same: the copies of one place."""

    place: int
    ranks: tuple[int, int]
    """The first and the last."""
    blocks: tuple[str, ...]
    """Of each of its stages."""
    num_parameters: int
    num_trainable: int
    memory: RankMemory
    """Of the first rank, which has the largest slices."""
    traffic: tuple[Traffic, ...]
    compute_s: float
    """Forward and backward passes of one update."""
    exchange_s: float
    """Exchange of gradients after the passes."""
    update_s: float


@dataclass(frozen=True)
class Scale:
    """The plan of a run on several devices."""

    machine: Machine
    num_processes: int
    num_copies: int
    num_places: int
    fsdp: bool
    schedule: str | None
    """None: there is no pipeline."""
    num_micro_batches: int
    """Of each copy in one update."""
    micro_batch_size: int
    places: tuple[Place, ...]
    passes_s: float
    """Of all micro-batches, waiting included."""
    bubble_fraction: float
    """Of the passes' time over all ranks, that in which they wait for each other."""
    step_s: float
    examples_per_s: float
    tokens_per_s: float
    """Padding included: every row has the planned length."""
    flop_utilisation: float
    """Operations of the model, nothing counted twice that is recomputed, by what all devices do at their peak (Chowdhery
    et al. 2022, arXiv:2204.02311, appendix B)."""

    @property
    def worst(self) -> Place:
        """The place whose ranks need the most memory."""
        return max(self.places, key=lambda one: one.memory.total)

    @property
    def fits(self) -> bool:
        return self.worst.memory.total <= self.machine.memory_bytes

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return {**dataclasses.asdict(self), "worst_place": self.worst.place, "fits": self.fits}


def make_scale(followed: Followed, forms: OptimizerForms, machine: Machine) -> Scale:
    """The plan of all ranks. Raises ConfigError and ModelError as `divide` does."""
    launch, train = followed.config.launch, followed.config.train
    stages, wires = divide(followed), Wires(followed, machine)
    name = launch.schedule if launch.is_pipeline else "1f1b"
    a_place = launch.stages_of_place if launch.is_pipeline else 1
    schedule = make_schedule(name, launch.pipeline, a_place, followed.num_micro_batches)
    splits = splits_backward(name) and not launch.fsdp and not any(stage.recomputed for stage in stages)
    costs = [
        _cost(followed, stage, wires.copies(place), machine, splits=splits)
        for stage, place in zip(stages, schedule.ranks, strict=True)
    ]
    course = replay(schedule, costs, [*_edges(stages, schedule, wires)])
    places = tuple(
        _place(
            followed, Own(stages, _numbers(schedule, place), schedule.actions[place], splits), schedule, forms, wires
        )
        for place in range(launch.pipeline)
    )
    step_s = course.seconds + max(one.exchange_s + one.update_s for one in places)
    useful = sum(stage.forward + stage.backward - stage.recomputed for stage in stages) * followed.parts_of_batch
    count = wires.num_copies * launch.pipeline
    return Scale(
        machine=machine,
        num_processes=count,
        num_copies=wires.num_copies,
        num_places=launch.pipeline,
        fsdp=launch.fsdp,
        schedule=launch.schedule if launch.is_pipeline else None,
        num_micro_batches=followed.num_micro_batches,
        micro_batch_size=followed.rows,
        places=places,
        passes_s=course.seconds,
        bubble_fraction=course.bubble_fraction,
        step_s=step_s,
        examples_per_s=train.batch_size / step_s,
        tokens_per_s=train.batch_size * followed.length / step_s,
        flop_utilisation=useful / (step_s * count * machine.flops_per_s),
    )


def _numbers(schedule: Schedule, place: int) -> list[int]:
    return [number for number, one in enumerate(schedule.ranks) if one == place]


def _cost(followed: Followed, stage: StageFacts, ranks: range, machine: Machine, *, splits: bool) -> StageCost:
    """Seconds of one micro-batch. Of a backward pass in two parts, the weights' part is what trained ones have of it.

    A product of matrices takes as long for the gradient of its input as for that of its weight.
    """
    exchanged = gathering(followed, stage, ranks, machine)
    backward = stage.backward / machine.rate + exchanged.backward.seconds + exchanged.scatter.seconds
    share = _size(stage, followed, trained=True) / max(1, _size(stage, followed, trained=False))
    weights = backward * share / (1 + share) if splits else 0.0
    return StageCost(stage.forward / machine.rate + exchanged.forward.seconds, backward - weights, weights)


def _edges(stages: Sequence[StageFacts], schedule: Schedule, wires: Wires) -> Iterator[Edge]:
    for number, stage in enumerate(stages[:-1]):
        one, other = schedule.ranks[number : number + 2]
        if one == other:
            yield Edge(0.0, 0.0 if stage.returns else None)
            continue
        wire = wires.machine.wire(wires.between(one, other))
        down = message(stage.returns, wire).seconds if stage.returns else None
        yield Edge(message(stage.sends, wire).seconds, down)


def _place(followed: Followed, own: Own, schedule: Schedule, forms: OptimizerForms, wires: Wires) -> Place:
    place, machine = schedule.ranks[own.numbers[0]], wires.machine
    memory = rank_memory(followed, own, forms)
    sent = tuple(traffic(followed, own, place, schedule.ranks, wires))
    own_stages = [own.stages[number] for number in own.numbers]
    after = {"shared parameters"} if followed.config.launch.fsdp else {"shared parameters", "gradients"}
    operations = sum(stage.forward + stage.backward for stage in own_stages) * followed.num_micro_batches
    ranks = wires.copies(place)
    return Place(
        place=place,
        ranks=(ranks[0], ranks[-1]),
        blocks=tuple(stage.blocks for stage in own_stages),
        num_parameters=_count(own.parameters),
        num_trainable=_count([one for one in own.parameters if followed.chain.trains(one)]),
        memory=memory,
        traffic=sent,
        compute_s=operations / machine.rate,
        exchange_s=sum(one.seconds for one in sent if one.what in after),
        update_s=_update_bytes(followed, memory, own) / machine.memory_bytes_per_s,
    )


def _update_bytes(followed: Followed, memory: RankMemory, own: Own) -> float:
    """What the update moves: gradients read for their norm and used, state and trained weights read and written."""
    trained = sum(one.numel() * one.element_size() for one in own.parameters if followed.chain.trains(one))
    if followed.config.launch.fsdp:
        trained = memory.gradients
    return 2.0 * (memory.gradients + memory.optimizer + trained)


def _size(stage: StageFacts, followed: Followed, *, trained: bool) -> int:
    """Numbers in the weight matrices of a stage: of all, or of the trained ones."""
    return _count([one for one in stage.parameters if one.ndim > 1 and (not trained or followed.chain.trains(one))])


def _count(parameters: Sequence[nn.Parameter]) -> int:
    return sum(one.numel() for one in parameters)

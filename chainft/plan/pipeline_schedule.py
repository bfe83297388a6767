"""In which order the ranks of a pipeline compute micro-batches, and how long that takes: schedules by name, simulated.

One simulator makes every schedule. It goes through time and lets each rank that is free begin the action that its
schedule prefers among those whose inputs have arrived. What it gives can therefore be run without deadlock, for any
number of micro-batches. The schedules differ in three points only: what is preferred, how many micro-batches may be
open at once, and whether the backward pass is cut in two (Qi et al. 2024, "Zero Bubble Pipeline Parallelism").
Letters: P ranks, v stages a rank, m micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["F", "B", "I", "W"]


class Action(NamedTuple):
    """What a rank does next."""

    kind: Kind
    """F forward; B backward; or B in two parts: I gradients of the stage's inputs, W of its weights."""
    stage: int
    micro_batch: int


@dataclass(frozen=True)
class StageCost:
    """How long one micro-batch takes in a stage, in any unit."""

    forward: float = 1.0
    backward: float = 1.0
    """Gradients of the inputs alone; 0 for a stage below which everything is frozen."""
    weight: float = 1.0
    """Gradients of the weights alone; 0 for a frozen stage."""

    def of(self, kind: Kind) -> float:
        return {"F": self.forward, "B": self.backward + self.weight, "I": self.backward, "W": self.weight}[kind]


@dataclass(frozen=True)
class Schedule:
    """The actions of each rank in their order, and when they would run."""

    name: str
    ranks: tuple[int, ...]
    """The rank of each stage."""
    actions: tuple[tuple[Action, ...], ...]
    """For each rank."""
    starts: tuple[tuple[float, ...], ...]
    """For each rank the simulated time at which each of its actions begins."""
    makespan: float
    """Time from the first action's beginning to the last one's end."""
    bubble: float
    """Fraction of the time of all ranks in which they wait."""
    peaks: tuple[int, ...]
    """For each rank the most micro-batches whose activations it holds at once, each stage of the rank counted."""


class _Size(NamedTuple):
    """What limits depend on."""

    rank: int
    num_ranks: int
    stages: int
    """A rank."""
    group: int
    """Micro-batches that go through a rank's stages together."""


@dataclass(frozen=True)
class _Policy:
    """What makes a schedule."""

    layout: Literal["loop", "v"]
    splits_backward: bool = False
    all_forward_first: bool = False
    in_groups: bool = False
    """A rank takes P micro-batches (or somewhat more, for equal groups) through its first stage, then through its next."""
    max_stages_per_rank: int | None = None
    max_open: Callable[[_Size], float] = lambda size: math.inf
    """Most micro-batches of a rank whose backward pass (I where it is cut) has not run, over its stages."""
    max_held: Callable[[_Size], float] = lambda size: math.inf
    """Most micro-batches of a rank whose activations are held, over its stages."""


def _as_megatron(size: _Size) -> int:
    """Micro-batches before the first backward pass (Narayanan et al. 2021, Megatron-LM, section 2.2), and one more."""
    return 2 * (size.num_ranks - size.rank - 1) + (size.stages - 1) * size.group + 1


_POLICIES = {
    "gpipe": _Policy("loop", all_forward_first=True, max_stages_per_rank=1),
    "1f1b": _Policy("loop", max_stages_per_rank=1, max_open=lambda size: size.num_ranks - size.rank),
    "interleaved_1f1b": _Policy("loop", in_groups=True, max_open=_as_megatron),
    "interleaved_zero_bubble": _Policy(
        "loop", splits_backward=True, max_held=lambda size: size.num_ranks * size.stages
    ),
    "zbv": _Policy("v", splits_backward=True, max_held=lambda size: size.num_ranks * size.stages),
}
SCHEDULES = tuple(_POLICIES)
"""Names of all schedules."""


def splits_backward(name: str) -> bool:
    """Whether a schedule cuts the backward pass in two."""
    return _POLICIES[name].splits_backward


def placement(name: str, num_ranks: int, stages_per_rank: int) -> tuple[int, ...]:
    """The rank of each stage: round and round, or for `zbv` there and back.

    Raises ValueError for a number of stages a rank that the schedule does not take.

    >>> placement("interleaved_1f1b", 2, 2), placement("zbv", 2, 2)
    ((0, 1, 0, 1), (0, 1, 1, 0))
    """
    policy = _POLICIES[name]
    if min(num_ranks, stages_per_rank) < 1:
        raise ValueError(f"{num_ranks} ranks with {stages_per_rank} stages each: both are at least 1")
    if policy.layout == "v":
        if stages_per_rank != 2:
            raise ValueError(f"the schedule {name!r} takes 2 stages a rank, not {stages_per_rank}")
        return (*range(num_ranks), *reversed(range(num_ranks)))
    if policy.max_stages_per_rank is not None and stages_per_rank > policy.max_stages_per_rank:
        raise ValueError(f"the schedule {name!r} takes one stage a rank, not {stages_per_rank}")
    return tuple(stage % num_ranks for stage in range(num_ranks * stages_per_rank))


@lru_cache(maxsize=256)
def make_schedule(
    name: str,
    num_ranks: int,
    stages_per_rank: int,
    num_micro_batches: int,
    *,
    costs: tuple[StageCost, ...] | None = None,
    communication: float = 0.0,
) -> Schedule:
    """The schedule `name` for so many ranks, stages a rank and micro-batches.

    `costs`: of each stage; `communication`: time from one rank to another. Raises ValueError as `placement` does.

    >>> " ".join(f"{one.kind}{one.micro_batch}" for one in make_schedule("1f1b", 2, 1, 3).actions[0])
    'F0 F1 B0 F2 B1 B2'
    """
    ranks = placement(name, num_ranks, stages_per_rank)
    if num_micro_batches < 1:
        raise ValueError(f"{num_micro_batches} micro-batches: there is at least 1")
    costs = costs or (StageCost(),) * len(ranks)
    if len(costs) != len(ranks):
        raise ValueError(f"{len(costs)} costs for {len(ranks)} stages")
    simulation = _Simulation(_POLICIES[name], ranks, num_micro_batches, costs, communication)
    while simulation.go_on():
        pass
    actions, starts = simulation.actions, simulation.starts
    makespan = max(simulation.free)
    busy = sum(costs[one.stage].of(one.kind) for several in actions for one in several)
    return Schedule(
        name,
        ranks,
        tuple(map(tuple, actions)),
        tuple(map(tuple, starts)),
        makespan,
        1 - busy / (num_ranks * makespan) if makespan else 0.0,
        tuple(_peak(several) for several in actions),
    )


def _peak(actions: Sequence[Action]) -> int:
    """Most activations held; those of a cut backward pass are held until its second part."""
    held = most = 0
    for action in actions:
        held += {"F": 1, "B": -1, "I": 0, "W": -1}[action.kind]
        most = max(most, held)
    return most


class _Choice(NamedTuple):
    """An action that could be the next one of a rank; the least is taken."""

    start: float
    preference: tuple[int, ...]
    rank: int
    action: Action


class _Simulation:
    """Time, and what has run until then."""

    def __init__(
        self,
        policy: _Policy,
        ranks: Sequence[int],
        num_micro_batches: int,
        costs: Sequence[StageCost],
        communication: float,
    ) -> None:
        self.policy = policy
        self.ranks = ranks
        self.num_ranks = max(ranks) + 1
        self.own = [[stage for stage, one in enumerate(ranks) if one == rank] for rank in range(self.num_ranks)]
        self.num_micro_batches = num_micro_batches
        self.num_groups = max(1, num_micro_batches // self.num_ranks)
        group = math.ceil(num_micro_batches / self.num_groups)
        self.sizes = [_Size(rank, self.num_ranks, len(own), group) for rank, own in enumerate(self.own)]
        self.costs = costs
        self.communication = communication
        self.backward: Kind = "I" if policy.splits_backward else "B"
        self.ends: dict[str, list[list[float]]] = {kind: [[] for _ in ranks] for kind in "FBIW"}
        """By kind and stage, when each micro-batch that has run was ready."""
        self.free = [0.0] * self.num_ranks
        self.actions: list[list[Action]] = [[] for _ in range(self.num_ranks)]
        self.starts: list[list[float]] = [[] for _ in range(self.num_ranks)]
        self._next: list[_Choice | None] = [None] * self.num_ranks
        self._changed = set(range(self.num_ranks))
        """Ranks for which `_next` may be another now."""

    def go_on(self) -> bool:
        """Run the next action of any rank; False: everything has run."""
        for rank in self._changed:
            self._next[rank] = min(self._choices(rank, within_limits=True), default=None)
        choices = [choice for choice in self._next if choice is not None]
        # Limits alone can bring all ranks to a halt, since what they wait for may need another micro-batch first.
        choices = choices or [
            choice for rank in range(self.num_ranks) for choice in self._choices(rank, within_limits=False)
        ]
        if not choices:
            return False
        start, _, rank, action = min(choices)
        self.starts[rank].append(start)
        self.actions[rank].append(action)
        self.free[rank] = start + self.costs[action.stage].of(action.kind)
        self.ends[action.kind][action.stage].append(self.free[rank])
        self._changed = {rank, *self.ranks[max(action.stage - 1, 0) : action.stage + 2]}
        return True

    def _choices(self, rank: int, *, within_limits: bool) -> Iterator[_Choice]:
        """Of every stage of the rank the next forward, backward and weight action, where its inputs are made."""
        kinds: list[Kind] = [self.backward]
        if not within_limits or self._is_within_limits(rank):
            kinds.append("F")
        if self.policy.splits_backward:
            kinds.append("W")
        if within_limits and self._waits_with_backward(rank):
            kinds.remove(self.backward)
        for kind in kinds:
            following = [Action(kind, stage, len(self.ends[kind][stage])) for stage in self.own[rank]]
            following = [action for action in following if action.micro_batch < self.num_micro_batches]
            if self.policy.in_groups and following:
                following = [min(following, key=self._place_in_groups)]
            for action in following:
                ready = self._ready(*action)
                if ready is not None:
                    yield _Choice(max(ready, self.free[rank]), self._preference(*action), rank, action)

    def _place_in_groups(self, action: Action) -> tuple[int, int, int]:
        group = action.micro_batch * self.num_groups // self.num_micro_batches
        return group, action.stage if action.kind == "F" else -action.stage, action.micro_batch

    def _ready(self, kind: Kind, stage: int, number: int) -> float | None:
        """When the inputs of an action are there; None: what makes them has not run."""
        if kind == "F":
            return self._arrival("F", stage - 1, stage, number) if stage else 0.0
        if number >= len(self.ends["F" if kind != "W" else "I"][stage]):
            return None
        return 0.0 if kind == "W" or stage == len(self.ranks) - 1 else self._arrival(kind, stage + 1, stage, number)

    def _arrival(self, kind: Kind, source: int, target: int, number: int) -> float | None:
        ends = self.ends[kind][source]
        if number >= len(ends):
            return None
        return ends[number] + (self.communication if self.ranks[source] != self.ranks[target] else 0.0)

    def _preference(self, kind: Kind, stage: int, number: int) -> tuple[int, ...]:
        """Backward before forward, because it frees memory and others wait; late stages first; weights fill gaps."""
        if kind == "F":
            return (1, -stage, number)
        return (2, number, -stage) if kind == "W" else (0, number, -stage)

    def _is_within_limits(self, rank: int) -> bool:
        """Whether the rank may take one more micro-batch."""
        held = self._count("F", rank) - self._count("W" if self.policy.splits_backward else "B", rank)
        return self._may_open(rank) and held < self.policy.max_held(self.sizes[rank])

    def _may_open(self, rank: int) -> bool:
        is_open = self._count("F", rank) - self._count(self.backward, rank)
        return is_open < self.policy.max_open(self.sizes[rank])

    def _waits_with_backward(self, rank: int) -> bool:
        """Whether the rank goes on with forward passes first, also where a backward pass could begin."""
        if self._count("F", rank) == self.num_micro_batches * len(self.own[rank]):
            return False
        return self.policy.all_forward_first or (self.policy.in_groups and self._may_open(rank))

    def _count(self, kind: Kind, rank: int) -> int:
        return sum(len(self.ends[kind][stage]) for stage in self.own[rank])

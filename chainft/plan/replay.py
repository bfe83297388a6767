"""How long a schedule takes whose order is fixed, with costs of its own for every stage and edge. No torch here.

Training fixes the order of actions as if all stages cost the same (`make_schedule` without costs); what they do cost
moves the moments at which actions begin, but not their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chainft.plan.pipeline_schedule import Action, Schedule, StageCost


@dataclass(frozen=True)
class Edge:
    """Seconds from a stage to the next one."""

    up: float = 0.0
    """Of hidden states."""
    down: float | None = 0.0
    """Of their gradients; None: nothing comes back, and nobody waits for it."""


@dataclass(frozen=True)
class Course:
    """How a schedule went."""

    seconds: float
    """From the first action's beginning to the last one's end."""
    bubble_fraction: float
    """Of the time of all ranks, that in which they wait."""


def replay(schedule: Schedule, costs: Sequence[StageCost], edges: Sequence[Edge]) -> Course:
    """Run the actions of a schedule in its order; `costs` of all stages, `edges` of all but the last."""
    ends: dict[Action, float] = {}
    free = [0.0] * len(schedule.actions)
    positions = [0] * len(schedule.actions)
    has_moved = True
    while has_moved:
        has_moved = False
        for rank, actions in enumerate(schedule.actions):
            while positions[rank] < len(actions):
                action = actions[positions[rank]]
                ready = _ready(action, ends, edges)
                if ready is None:
                    break
                free[rank] = ends[action] = max(ready, free[rank]) + costs[action.stage].of(action.kind)
                positions[rank] += 1
                has_moved = True
    seconds = max(free)
    busy = sum(costs[one.stage].of(one.kind) for actions in schedule.actions for one in actions)
    return Course(seconds, 1 - busy / (len(free) * seconds) if seconds else 0.0)


def _ready(action: Action, ends: dict[Action, float], edges: Sequence[Edge]) -> float | None:
    """When the inputs of an action are there; None: what makes them has not run."""
    kind, stage, number = action
    if kind == "F":
        return _after(ends.get(Action("F", stage - 1, number)), edges[stage - 1].up) if stage else 0.0
    own = ends.get(Action("I" if kind == "W" else "F", stage, number))
    down = edges[stage].down if kind != "W" and stage < len(edges) else None
    if own is None or down is None:
        return own
    above = _after(ends.get(Action(kind, stage + 1, number)), down)
    return None if above is None else max(own, above)


def _after(end: float | None, seconds: float) -> float | None:
    return None if end is None else end + seconds

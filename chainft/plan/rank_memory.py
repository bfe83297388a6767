"""The most memory that a rank of a divided run takes at once: in the passes, in the exchange of gradients, or in the update.

Of a rank's stages every micro-batch between its forward and its backward pass keeps its activations. FSDP2 gathers a
block before its use, with the next one already on its way, and keeps the outermost unit gathered until the backward pass
is done; a gradient is whole until it is scattered, from a copy in a buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from chainft.plan.division import Slices, StageFacts, size_of, units_of
from chainft.plan.followed import Followed, num_copies
from chainft.plan.optimizer_state import OptimizerForms
from chainft.plan.pipeline_schedule import Action
from chainft.world import buckets

Phase = Literal["passes", "exchange", "update"]
_IN_FLIGHT = 2
"""Units that are gathered at once, or of which gradients are whole: one that computes, and one in a buffer."""


@dataclass(frozen=True)
class RankMemory:
    """Bytes by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """The most in the passes, over all micro-batches that are open then, temporaries included."""
    buffers: int
    """Beside these at the peak: what is gathered, sent or received, or what the optimizer takes for a moment."""
    total: int
    """The most at once."""
    phase: Phase
    """When that is."""


@dataclass(frozen=True)
class Own:
    """What a rank computes."""

    stages: Sequence[StageFacts]
    """All stages of the pipeline."""
    numbers: Sequence[int]
    """Those of this rank."""
    actions: Sequence[Action]
    splits_backward: bool
    """Whether activations wait for the second part of a backward pass that is cut in two."""

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]:
        """Each once."""
        return tuple(dict.fromkeys(one for number in self.numbers for one in self.stages[number].parameters))


def rank_memory(followed: Followed, own: Own, forms: OptimizerForms) -> RankMemory:
    """The memory of the rank that has the largest slices, copy 0 of its place."""
    launch, chain = followed.config.launch, followed.chain
    slices = Slices(num_copies(followed.config) if launch.fsdp else 1)
    trained = [one for one in own.parameters if chain.trains(one)]
    weights, gradients = slices.num_bytes(own.parameters), slices.num_bytes(trained)
    optimizer = slices.state(trained, forms)
    activations, buffers = _activations(own), _messages(own)
    whole, scattered = _sharded(followed, own, trained) if launch.fsdp else (0.0, 0.0)
    passes = gradients + activations + buffers + whole
    if not launch.is_pipeline and followed.num_micro_batches == 1:  # Gradients come while activations go.
        share = gradients / (size_of(trained) or 1)
        passes = float((followed.step.alive + share * followed.step.gradients).max(initial=0)) + whole
    update = max((forms.of(one).temporaries * size_of([slices.of(one)]) for one in trained), default=0.0)
    moments: dict[Phase, tuple[float, float]] = {
        "passes": (passes, buffers + whole),
        "exchange": (gradients + scattered, scattered) if launch.fsdp else _summed(followed, trained),
        "update": (gradients + update, update),
    }
    phase = max(moments, key=lambda one: moments[one][0])
    most, beside = moments[phase]
    return RankMemory(
        weights=round(weights),
        gradients=round(gradients),
        optimizer=round(optimizer),
        activations=round(activations),
        buffers=round(beside),
        total=round(weights + optimizer + most),
        phase=phase,
    )


def _activations(own: Own) -> float:
    """The most that is held at once, going through the actions of the rank."""
    held = most = 0.0
    last = "W" if own.splits_backward else "I"
    for kind, number, _ in own.actions:
        stage = own.stages[number]
        if kind == "F":
            most = max(most, held + stage.most_forward)
            held += stage.kept
        elif kind != "W":
            most = max(most, held - stage.kept + stage.most_backward)
        if kind in ("B", last):
            held -= stage.kept
    return most


def _messages(own: Own) -> float:
    """One message in each direction of each edge to another rank, coming or going."""
    edges = {edge for number in own.numbers for edge in (number - 1, number)}
    far = [edge for edge in edges if edge >= 0 and (edge not in own.numbers or edge + 1 not in own.numbers)]
    return sum(own.stages[edge].sends + own.stages[edge].returns for edge in far)


def _summed(followed: Followed, trained: Sequence[nn.Parameter]) -> tuple[float, float]:
    """Gradients, and the largest bucket in which copies sum them (`World.sum_gradients`)."""
    gradients = size_of(trained)
    if num_copies(followed.config) == 1:
        return gradients, 0.0
    bucket = max(map(size_of, buckets(trained)), default=0.0)
    return gradients + bucket, bucket


def _sharded(followed: Followed, own: Own, trained: Sequence[nn.Parameter]) -> tuple[float, float]:
    """What is whole beside the slices while blocks are computed, and when the outermost unit's gradients are scattered."""
    units, shell = units_of(followed.chain.model, own.parameters)
    kept = {id(one) for one in trained}
    sizes, shell_size = [size_of(unit) for unit in units], size_of(shell)
    gradients = [size_of([one for one in unit if id(one) in kept]) for unit in units]
    of_head = {one for number in own.numbers for one in own.stages[number].head}
    early = size_of([one for one in shell if id(one) in kept & of_head])
    gathered = _IN_FLIGHT * max(sizes, default=0.0) if followed.config.launch.reshard_after_forward else sum(sizes)
    within = shell_size + early + gathered + _IN_FLIGHT * max(gradients, default=0.0)
    return within, _IN_FLIGHT * size_of([one for one in shell if id(one) in kept])  # Its weights are freed before.

"""The stages of a divided model as the plan sees them: parameters, operations, and bytes of each micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from chainft.plan.budget import is_within
from chainft.plan.followed import Followed
from chainft.plan.measure import Step
from chainft.plan.optimizer_state import OptimizerForms
from chainft.plan.places import place_spans
from chainft.plan.probe import ghostly
from chainft.plan.trace import PHASES
from chainft.stages.blocks import find_blocks
from chainft.stages.gates import Gates, probe_inputs
from chainft.stages.owners import live, owners
from chainft.stages.shard_units import shard_units
from chainft.stages.spans import Span


@dataclass(frozen=True)
class StageFacts:
    """What one stage has, and what one micro-batch does in it. Bytes and floating-point operations."""

    blocks: str
    parameters: tuple[nn.Parameter, ...]
    """Those that it computes with, each once."""
    head: frozenset[int]
    """Ids of those with which it computes the output, whose gradients are the first to be made."""
    forward: float
    backward: float
    """What is recomputed included."""
    recomputed: float
    kept: float
    """From the forward to the backward pass, what was received included."""
    most_forward: float
    """While the forward pass runs: what is kept, and temporaries."""
    most_backward: float
    sends: float
    """Hidden states for the next stage."""
    returns: float
    """Their gradients, from the next stage."""


def divide(followed: Followed) -> tuple[StageFacts, ...]:
    """The stages of all places in order; of a model that is not cut, the whole as one.

    Raises ConfigError for a pipeline that the chain or the model is too short for, ModelError for a cut or a family that
    is refused.
    """
    config, chain, model = followed.config, followed.chain, followed.chain.model
    if not config.launch.is_pipeline:
        return (_whole(followed),)
    blocks = find_blocks(model)
    spans = place_spans(
        config.launch,
        [*chain.spans.values()],
        blocks.num_blocks,
        lambda: _block_flops(followed.step, blocks.num_blocks),
    )
    with ghostly():
        gates = Gates(model)
        names = [live(gates, span) for span in spans]
        of_head = live(gates, Span(blocks.num_blocks, blocks.num_blocks, embeddings=False, head=True))
        names[-1] |= {name for name, unit in owners(model).items() if unit == blocks.num_blocks}
        sizes = [_message(gates, span, (followed.rows, followed.length)) for span in spans[:-1]] + [0.0]
    trains = [any(chain.trains(one) for one in _parameters(model, several)) for several in names]
    returns = [size if any(trains[: number + 1]) else 0.0 for number, size in enumerate(sizes)]
    facts = []
    for number, span in enumerate(spans):
        parameters = _parameters(model, names[number])
        head = frozenset(id(one) for one in _parameters(model, of_head)) if span.head else frozenset[int]()
        received = returns[number - 1] if number else 0.0
        kept, most = _bytes(followed.step, span, received=received, returned=returns[number])
        forward, backward, recomputed = _flops(followed.step, span)
        one = StageFacts(
            blocks=span.within(blocks.map),
            parameters=parameters,
            head=head,
            forward=forward,
            backward=backward,
            recomputed=recomputed,
            kept=kept,
            most_forward=most[0],
            most_backward=most[1],
            sends=sizes[number],
            returns=returns[number],
        )
        facts.append(one)
    return tuple(facts)


def _whole(followed: Followed) -> StageFacts:
    step = followed.step
    parameters = tuple(dict.fromkeys(followed.chain.model.parameters()))
    sums = {phase: sum(count for (_, when), count in step.flops.items() if when == phase) for phase in PHASES}
    most = [float(part.max(initial=0)) for part in np.split(step.alive, [step.num_forward])]
    return StageFacts(
        blocks="the whole model",
        parameters=parameters,
        head=frozenset(id(one) for one in _of_head(followed)),
        forward=sums["forward"],
        backward=sums["backward"] + sums["recomputed"],
        recomputed=sums["recomputed"],
        kept=sum(step.kept.values()),
        most_forward=most[0],
        most_backward=most[1],
        sends=0.0,
        returns=0.0,
    )


def _of_head(followed: Followed) -> Sequence[nn.Parameter]:
    """Where parts of the model can't be told apart, all parameters: their gradients may be there all the time."""
    chain = followed.chain
    spans = [*chain.spans.values()]
    if followed.config.chain.is_linked or not followed.config.launch.fsdp or not spans:
        return list(chain.model.parameters())
    blocks = find_blocks(chain.model)
    with ghostly():
        names = live(Gates(chain.model), Span(blocks.num_blocks, blocks.num_blocks, embeddings=False, head=True))
    return _parameters(chain.model, names)


def _parameters(model: nn.Module, names: set[str]) -> tuple[nn.Parameter, ...]:
    named = dict(model.named_parameters(remove_duplicate=False))
    return tuple(dict.fromkeys(parameter for name, parameter in named.items() if name in names))


def _block_flops(step: Step, num_blocks: int) -> list[float]:
    """What is proportional to the seconds that training measures."""
    return [sum(step.flops.get((block, phase), 0) for phase in PHASES) for block in range(num_blocks)]


def _message(gates: Gates, span: Span, size: tuple[int, int]) -> float:
    """Bytes of what a stage hands on: as of a short text, (B, L, D), with the rows and tokens of the micro-batch."""
    with torch.no_grad():
        payload = gates.run(Span(0, span.stop, embeddings=True, head=False), None, probe_inputs(gates.model))
    return float(sum(size[0] * size[1] * one.shape[-1] * one.element_size() for one in payload.tensors()))


def _flops(step: Step, span: Span) -> tuple[float, float, float]:
    """Forward, backward with what is recomputed, and that alone."""
    sums = {
        phase: sum(count for (unit, when), count in step.flops.items() if when == phase and is_within(span, unit))
        for phase in PHASES
    }
    return sums["forward"], sums["backward"] + sums["recomputed"], sums["recomputed"]


def _bytes(step: Step, span: Span, *, received: float, returned: float) -> tuple[float, tuple[float, float]]:
    """What a stage keeps of a micro-batch, and the most in its forward and its backward pass.

    What is received and has a gradient is kept here too, though the stage below made it; what that one handed on it
    keeps no more. Of the whole model's step, all that stages below keep is taken off.
    """
    inside = np.array([is_within(span, int(unit)) for unit in step.units])
    below = sum(size for unit, size in step.kept.items() if _is_below(span, unit))
    own = sum(size for unit, size in step.kept.items() if is_within(span, unit))
    kept = max(0.0, own - returned) + received
    phases = np.arange(len(step.alive)) < step.num_forward
    most = []
    for phase in (phases, ~phases):
        alive = step.alive[inside & phase]
        most.append(max(kept, float(alive.max(initial=below)) - below + received))
    return kept, (most[0], most[1])


def _is_below(span: Span, unit: int) -> bool:
    return unit < span.start and not is_within(span, unit)


@dataclass(frozen=True)
class Slices:
    """How parameters are sharded among copies; one copy: not at all."""

    num_copies: int

    def of(self, parameter: torch.Tensor) -> torch.Tensor:
        """The largest slice: FSDP2 cuts the first dimension, and the first copies have one row more."""
        if self.num_copies == 1 or not parameter.ndim:
            return parameter
        rows = -(-parameter.shape[0] // self.num_copies)
        return torch.empty((rows, *parameter.shape[1:]), dtype=parameter.dtype, device="meta")

    def num_bytes(self, parameters: Sequence[torch.Tensor]) -> float:
        return size_of([self.of(one) for one in parameters])

    def state(self, parameters: Sequence[torch.Tensor], forms: OptimizerForms) -> float:
        """Bytes of the optimizer's state."""
        return float(sum(forms.of(one).bytes_of(self.of(one)) for one in parameters))


def units_of(
    model: nn.Module, parameters: Sequence[nn.Parameter]
) -> tuple[list[list[nn.Parameter]], list[nn.Parameter]]:
    """The parameters of a stage by what is gathered together: blocks, and the outermost rest."""
    units = []
    left = {id(one): one for one in parameters}
    for modules in shard_units(model):  # type: ignore[arg-type]
        inside = dict.fromkeys(parameter for module in modules for parameter in module.parameters())
        units.append([left.pop(id(one)) for one in inside if id(one) in left])
    return [unit for unit in units if unit], [*left.values()]


def size_of(parameters: Sequence[torch.Tensor]) -> float:
    """Bytes."""
    return float(sum(one.numel() * one.element_size() for one in parameters))

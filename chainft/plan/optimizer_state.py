"""What an optimizer keeps for a parameter, read off one that updated a tiny tensor: no table of optimizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from chainft.plan.trace import Tracker

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]
"""From a module with trainable parameters to their optimizer."""

_SIDES = (13, 17, 19, 23, 29)
"""Sides of the tiny tensors: unlike each other, so that a state's side tells which of the parameter's it is."""


@dataclass(frozen=True)
class StateForm:
    """The state of parameters with a certain number of dimensions."""

    tensors: tuple[tuple[tuple[int | None, ...], int], ...]
    """For each tensor of the state: for each side, which side of the parameter it is as long as (None: one), and the
    bytes of an entry."""
    temporaries: float
    """Most bytes that an update takes and frees again, as a multiple of the parameter's own."""

    def bytes_of(self, parameter: Tensor) -> int:
        """Bytes of the state of a parameter."""
        return sum(
            size * math.prod(parameter.shape[side] for side in sides if side is not None)
            for sides, size in self.tensors
        )


class OptimizerForms:
    """The forms of one optimizer's state, by the number of dimensions of a parameter."""

    def __init__(self, make: MakeOptimizer) -> None:
        self._make = make
        self._forms: dict[int, StateForm] = {}

    def of(self, parameter: Tensor) -> StateForm:
        if parameter.ndim not in self._forms:
            self._forms[parameter.ndim] = _form(self._make, parameter.ndim)
        return self._forms[parameter.ndim]

    def temporaries(self, parameters: Iterable[Tensor]) -> float:
        """Most bytes that the update of these parameters, one after the other, takes beyond the state."""
        return max((self.of(one).temporaries * one.numel() * one.element_size() for one in parameters), default=0.0)


def _form(make: MakeOptimizer, num_dims: int) -> StateForm:
    shape = _SIDES[:num_dims]
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(shape))
    optimizer = make(module)
    _update(module.weight, optimizer)
    kept = [value for value in optimizer.state[module.weight].values() if isinstance(value, Tensor)]
    tensors = tuple((tuple(_side(length, shape) for length in one.shape), one.element_size()) for one in kept)
    module.weight.grad = torch.ones(shape)
    tracker = Tracker([module.weight, module.weight.grad, *kept])
    with tracker:
        optimizer.step()
    return StateForm(tensors, max(tracker.trace.alive, default=0) / (4 * math.prod(shape)))


def _update(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    parameter.grad = torch.ones(parameter.shape)
    optimizer.step()


def _side(length: int, shape: tuple[int, ...]) -> int | None:
    return shape.index(length) if length in shape else None

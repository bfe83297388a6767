"""Updates that are handed to a GPU without waiting for it, so that the next step can begin while it computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from chainft.world import World


@dataclass(frozen=True)
class StepFacts:
    """What one update did."""

    step: int
    """Updates done so far, this one included."""
    loss: float
    """Mean loss a target over the global batch."""
    lr: float
    grad_norm: float
    """Norm before clipping."""
    num_examples: int
    num_tokens: int
    """Tokens of the batch without padding."""
    finite: bool
    """False: loss or gradient was not finite and the update was left out."""


@dataclass(frozen=True)
class Update:
    """An update that is under way; a GPU may be at it still."""

    facts: Callable[[], StepFacts]
    """Waits for what it did."""
    leads: bool
    """Whether the next one may begin before that is known: where this one is left out, the device itself does it."""


@dataclass(frozen=True)
class Outcome:
    """Loss and norm of an update, on their way from the GPU."""

    values: Tensor
    """(2,) float64 on the device."""

    @classmethod
    def of(cls, loss: Tensor, norm: Tensor) -> Outcome:
        """Both ()."""
        return cls(torch.stack([loss, norm.to(loss.device, torch.float64)]))

    @property
    def is_bad(self) -> Tensor:
        """() float32 on the device: 1 where one is not finite."""
        return (~self.values.isfinite().all()).to(torch.float32)

    def send(self) -> Callable[[], tuple[float, float, bool]]:
        """Begins to copy; what is returned waits for loss, norm and whether both are finite."""
        there = torch.empty(2, dtype=torch.float64, pin_memory=True)
        there.copy_(self.values, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch has no types for it.
        done.record()

        def arrived() -> tuple[float, float, bool]:
            done.synchronize()
            loss, norm = there.tolist()
            return loss, norm, math.isfinite(loss) and math.isfinite(norm)

        return arrived


def is_leading(
    optimizer: torch.optim.Optimizer, accelerator: Accelerator, world: World, division: object | None
) -> bool:
    """Whether an update needs no number of the device: one process on a GPU, and an optimizer that leaves out by itself
    what is not finite: torch's fused Adam and AdamW. (Its fused SGD keeps a momentum that was never set then.)"""
    alone = world.num_copies == 1 and division is None
    leaves_out = isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) and all(
        group["fused"] for group in optimizer.param_groups
    )
    return accelerator.device.type == "cuda" and alone and leaves_out and accelerator.scaler is None

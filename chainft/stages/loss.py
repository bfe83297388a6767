"""The loss of a model's output: of one head, or of linked models with a head after several stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from chainft.data.batching import Batch
    from chainft.tasks.base import Task


def loss_of(task: Task, output: Any, batch: Batch) -> Tensor:
    """The sum of the task's losses; linked models with auxiliary heads add theirs, each with its weight."""
    loss = task.loss(output, batch)
    for weight, head in getattr(output, "auxiliary", None) or ():
        loss = loss + weight * task.loss(head, batch)
    return loss

"""One rank of a pipeline: runs its stages on micro-batches by a schedule, together with the ranks of the other stages.

All ranks get the same batches. Each computes its own stages and hands hidden states up and gradients down; only the
rank with the head computes the loss. Gradients end up where a single process has them, in the parameters' `.grad`, once
`sum_ties` has added those of parameters of which several ranks hold a copy.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from chainft.data.batching import Batch
from chainft.plan.pipeline_schedule import make_schedule, placement
from chainft.stages.partial import Stage
from chainft.train.pipeline_links import Far, Link, Message, Near
from chainft.train.pipeline_output import Sharing
from chainft.train.pipeline_step import Step, form_of
from chainft.train.pipeline_ties import Holdings
from chainft.train.process_groups import new_groups

if TYPE_CHECKING:
    from chainft.tasks.base import Task


class Pipeline:
    """The stages of this rank, linked with those of the other ranks of `group`."""

    def __init__(
        self,
        stages: Sequence[Stage],
        task: Task,
        *,
        schedule: str,
        group: dist.ProcessGroup,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        splits_backward: bool = True,
        timeout: timedelta | None = None,
    ) -> None:
        """All processes make theirs together, those of other pipelines (data parallelism) too, and after everything that
        replaces parameters, such as FSDP2.

        `group` and the default group have gloo for what is on the CPU, and for `device` what fits it. `stages`: those
        that `placement(schedule, ...)` gives this rank, in order. `splits_backward`: whether a schedule that cuts the
        backward pass in two may do so; False: its first part is the whole, as FSDP2 needs it. `timeout`: how long a
        message is waited for. Raises ValueError for a number of stages that the schedule does not take.
        """
        self.task = task
        self.schedule = schedule
        self.group = group
        self.device = device
        self.autocast = autocast
        self.stages_per_rank = len(stages)
        self.ranks = placement(schedule, group.size(), len(stages))
        """The rank of each stage within `group`."""
        mine = [number for number, rank in enumerate(self.ranks) if rank == group.rank()]
        self.stages: Mapping[int, Stage] = dict(zip(mine, stages, strict=True))
        self._splits = {number: splits_backward and not _recomputes(stage) for number, stage in self.stages.items()}
        self.holdings = Holdings(stages, group, device, timeout=timeout)
        self.links: Mapping[int, Link] = self._link(timeout)
        """By the number of the lower stage."""
        self._share = Sharing(group, self.ranks[-1], device)
        self._agreed: list[int] = []

    @property
    def num_stages(self) -> int:
        return len(self.ranks)

    def gradient(
        self, batches: Sequence[Batch], num_targets: float, *, seed: Callable[[int], None], num_idle: int = 0
    ) -> Tensor:
        """Add the gradients of all micro-batches to the parameters'; returns the loss a target, float64, on every rank.

        `num_targets`: what the sum of losses is divided by, not 0. `seed(micro_batch)` seeds torch; the random numbers
        that a stage draws after it follow those of the stages below, as in a single process. The last `num_idle`
        batches are computed, but count nothing. The caller puts the model into training mode before and calls
        `sum_ties` after. After an error the ranks are out of step, and the pipeline is of no use any more.
        """
        if not batches:
            return torch.zeros((), dtype=torch.float64, device=self.device)
        self._agree()
        step = Step(self, [batch.to(self.device) for batch in batches], num_targets, seed, num_idle=num_idle)
        schedule = make_schedule(self.schedule, self.group.size(), self.stages_per_rank, len(batches))
        total = step.run(schedule.actions[self.group.rank()])
        self._flush()
        dist.all_reduce(total, group=self.group)
        return total

    def infer(self, batch: Batch) -> Any:
        """The output that the whole model would give for a batch, on every rank."""
        return self.forward_like(**self.task.arguments(batch.to(self.device)))

    @torch.no_grad()  # Inference mode would spoil what FSDP2 gathers in place.
    def forward_like(self, **arguments: Any) -> Any:
        """As the whole model is called. All ranks call it with the same arguments."""
        key = (False, form_of(arguments))
        output = None
        for number, stage in self.stages.items():
            received = self.links[number - 1].receive(key).payload if number else None
            with self.autocast():
                output = stage(received, arguments)
            if number < self.num_stages - 1:
                self.links[number].send(Message.of(output), key)
        self._flush()
        return self._share(output, key)

    def splits(self, stage: int) -> bool:
        """Whether the backward pass of one of this rank's stages is cut in two where the schedule says so."""
        return self._splits[stage]

    def sum_ties(self) -> None:
        """Give every copy of a parameter the sum of the gradients of all copies in the pipeline."""
        self.holdings.sum_ties()

    def owned_names(self) -> tuple[str, ...]:
        """First names in the whole model of the parameters that count as this rank's, where several have a copy."""
        return self.holdings.owned

    def grad_norm_sq(self) -> Tensor:
        """Sum of squares of all gradients of the pipeline, each parameter once, float64, on every rank.

        Gradients that FSDP2 sharded count whole; all processes that hold a part call this together.
        """
        total = self.holdings.grad_norm_sq()
        dist.all_reduce(total, group=self.group)
        return total

    def _link(self, timeout: timedelta | None) -> dict[int, Link]:
        """The edges of this rank's stages; the ranks make them in one order, since each waits for the other."""
        pairs = {
            lower: (
                dist.get_global_rank(self.group, self.ranks[lower]),
                dist.get_global_rank(self.group, self.ranks[lower + 1]),
            )
            for lower in range(self.num_stages - 1)
        }
        far = {lower: pair for lower, pair in pairs.items() if dist.get_rank() in pair and len({*pair}) == 2}
        wanted = {(*far[lower], lower, way): far[lower] for lower in far for way in ("up", "down")}
        groups = new_groups(wanted, timeout=timeout)
        links: dict[int, Link] = {lower: Near() for lower, pair in pairs.items() if {*pair} == {dist.get_rank()}}
        for lower, pair in far.items():
            links[lower] = Far(pair, (groups[*pair, lower, "up"], groups[*pair, lower, "down"]), self.device)
        return links

    def _agree(self) -> None:
        """Learn whether any rank froze something or changed a mode since the last step: then messages get new forms."""
        found = torch.zeros(self.num_stages, dtype=torch.int64)
        for number, stage in self.stages.items():
            flags = [parameter.requires_grad for parameter in stage.model.parameters()]
            found[number] = zlib.crc32(bytes(flags + [module.training for module in stage.model.modules()]))
        dist.all_reduce(found, group=self.group)
        if found.tolist() != self._agreed:
            self._agreed = found.tolist()
            for link in self.links.values():
                link.forget()

    def _flush(self) -> None:
        for link in self.links.values():
            link.flush()


def _recomputes(module: nn.Module) -> bool:
    """Whether activations are computed anew in the backward pass: with two parts it would be twice."""
    return any(getattr(part, "gradient_checkpointing", False) for part in module.modules())

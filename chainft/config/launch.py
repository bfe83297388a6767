"""On how many processes, devices and machines a run computes: the section `launch`. Nothing here imports torch.

Names are those of Accelerate where it has one (`num_processes` over all machines, `machine_rank`, `main_process_ip`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from chainft.config.ranges import Count, CountOrZero, Limits, Positive

Port = Annotated[int, Limits(low=1, high=65535)]

Schedule = Literal["gpipe", "1f1b", "interleaved_1f1b", "interleaved_zero_bubble", "zbv"]

ONE_STAGE = ("gpipe", "1f1b")
"""Schedules of one stage a rank."""


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Processes, devices and machines. A run under torchrun or `accelerate launch` takes theirs."""

    num_processes: Literal["auto"] | Count = 1
    """Processes over all machines, each with a device of its own on GPUs; auto: one for each GPU of this machine, times
    `num_machines` (one where there is no GPU)."""
    num_machines: Count = 1
    """Machines, on each of which the same command is started with its own `machine_rank`."""
    machine_rank: CountOrZero = 0
    """Number of this machine; 0 is the main one."""
    main_process_ip: str | None = None
    """Address of the main machine, as the others see it."""
    main_process_port: Port | None = None
    """A free port of the main machine, at which the processes find each other; default 29400 with several machines."""
    timeout_s: Positive = 600.0
    """How long a process waits for the others in one exchange until the run is given up."""
    max_restarts: CountOrZero = 0
    """How often a run whose process died or hung is started again from its last checkpoint."""
    fsdp: bool = False
    """Shard parameters, gradients and optimizer state over the processes (FSDP2) instead of keeping a copy in each."""
    cpu_offload: bool = False
    """With `fsdp`: keep shards in the CPU's memory and bring them to the GPU for the time of their use."""
    reshard_after_forward: bool = True
    """With `fsdp`: free the gathered parameters after the forward pass and gather them again for the backward pass."""
    pipeline: Count = 1
    """Ranks among which the stages of the chain are divided; the other processes run copies of such pipelines."""
    schedule: Schedule = "1f1b"
    """With `pipeline`: the order of forward and backward passes."""
    stages_per_rank: Count | None = None
    """With `pipeline`: stages on each rank; default 2 for the interleaved schedules and zbv, else 1."""

    offload: Literal["none", "cpu", "disk"] = "none"
    """On one device: where parameters, gradients and optimizer state rest while stage after stage streams in and out.
    cpu: in the CPU's memory, beside a GPU; disk: in memory-mapped files; none: everything stays on the device."""
    offload_dir: str | None = None
    """With `offload: disk`: the folder of its files, which are removed by themselves; default: the run folder."""
    blocks_per_stage: Count = 1
    """With `offload`: most blocks that are on the device together; stages of the chain are cut into so many."""

    @property
    def is_pipeline(self) -> bool:
        return self.pipeline > 1

    @property
    def offloads(self) -> bool:
        return self.offload != "none"

    @property
    def divides(self) -> bool:
        """Whether no process has the whole model at a time."""
        return self.is_pipeline or self.fsdp or self.offloads

    @property
    def stages_of_place(self) -> int:
        """`stages_per_rank`, or its default."""
        return self.stages_per_rank or (1 if self.schedule in ONE_STAGE else 2)


def launched_size() -> int | None:
    """How many processes torchrun, `accelerate launch` or chainft started for this run; None: none of them did."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else None

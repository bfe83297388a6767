"""The machine for which `chainft plan` foresees a run: the node `plan`, apart from `RunConfig`, as no training reads it.

Every figure that is left away is that of the machine by name (`chainft.plan.machine`, where the sources stand).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from chainft.config.ranges import Count, Limits, NotNegative, Positive

MachineName = Literal["h100", "a100", "l4", "cpu", "measured"]


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """The machine model of `chainft plan`: what each device and each link between devices attains."""

    machine: MachineName = "h100"
    """Whose figures hold: NVIDIA H100 SXM, A100 SXM 80 GB, L4, a server CPU (one process a socket), or measured: those
    of this machine's device (matrix products timed now), with the links of cpu or, on a GPU, of l4."""
    devices_per_machine: Count | None = None
    """Devices that one machine has; default `launch.num_processes` / `launch.num_machines`."""
    flops_per_s: Positive | None = None
    """Peak floating-point operations a second of a device, in the arithmetic of `train.mixed_precision`."""
    attained_fraction: Annotated[float, Limits(low=0, high=1, open_low=True)] | None = None
    """Share of that peak which training attains while it computes."""
    memory_gib: Positive | None = None
    """Memory of a device in GiB."""
    memory_bytes_per_s: Positive | None = None
    """Bandwidth of a device's memory, which limits the optimizer's update."""
    inside_bytes_per_s: Positive | None = None
    """Bandwidth between devices of one machine, one way, for each device."""
    inside_latency_s: NotNegative | None = None
    """Time until the first byte arrives inside a machine."""
    between_bytes_per_s: Positive | None = None
    """Bandwidth between machines, one way, for each device."""
    between_latency_s: NotNegative | None = None
    """Time until the first byte arrives at another machine."""

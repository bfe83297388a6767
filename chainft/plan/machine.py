"""What devices and the links between them attain: machines by name, and the one that a plan is made for. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from chainft.config.launch import LaunchConfig
from chainft.config.no_effect import no_effect
from chainft.config.plan_config import PlanConfig
from chainft.errors import ConfigError, Problem

GIB = 2**30
Link = Literal["inside", "between"]
"""Within a machine, or from one machine to another."""


@dataclass(frozen=True)
class Wire:
    """A link between two devices: a message of `b` bytes takes latency_s + b / bytes_per_s."""

    bytes_per_s: float
    """One way."""
    latency_s: float

    def seconds(self, num_bytes: float) -> float:
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True)
class Device:
    """Figures of one device and its links, by the data sheets named in `DEVICES`."""

    name: str
    flops_per_s: float
    """Peak in 32 bits."""
    flops_per_s_16: float
    """Peak in 16 bits, without sparsity."""
    attained_fraction: float
    memory_bytes: float
    memory_bytes_per_s: float
    inside: Wire
    between: Wire


_H100 = Device(
    "h100", 67e12, 989.4e12, 0.4, 80e9, 3.35e12, inside=Wire(450e9, 5e-6), between=Wire(50e9, 10e-6)
)  # fmt: skip
_A100 = Device(
    "a100", 19.5e12, 312e12, 0.5, 80e9, 2.039e12, inside=Wire(300e9, 5e-6), between=Wire(25e9, 10e-6)
)  # fmt: skip
_L4 = Device(
    "l4", 30.3e12, 121e12, 0.4, 24e9, 300e9, inside=Wire(32e9, 10e-6), between=Wire(1.5625e9, 20e-6)
)  # fmt: skip
_CPU = Device(
    "cpu", 7.17e12, 229e12, 0.5, 256e9, 307.2e9, inside=Wire(10e9, 50e-6), between=Wire(3.125e9, 100e-6)
)  # fmt: skip

DEVICES = {one.name: one for one in (_H100, _A100, _L4, _CPU)}
"""Machines by name. Peaks are those of dense products; float32 is float32, not TF32, as torch computes by default.

- h100: NVIDIA H100 Tensor Core GPU data sheet, SXM5: FP32 67 TFLOP/s, BF16 989.4 (1,979 with sparsity), 80 GB, 3.35 TB/s,
  NVLink 900 GB/s both ways; DGX H100 data sheet: one 400 Gbit/s network card a GPU. Share attained: 38 to 43 % in
  the training of Llama 3 (Grattafiori et al. 2024, arXiv:2407.21783, table 4).
- a100: NVIDIA A100 Tensor Core GPU data sheet, SXM4 80 GB: FP32 19.5 TFLOP/s, BF16 312, 2,039 GB/s, NVLink 600 GB/s both
  ways; DGX A100 data sheet: one 200 Gbit/s card a GPU. Share: 44 to 52 % (Narayanan et al. 2021, arXiv:2104.04473,
  table 1).
- l4: NVIDIA L4 data sheet: FP32 30.3 TFLOP/s, BF16 121 (242 with sparsity), 24 GB, 300 GB/s, PCIe 4.0 x16 64 GB/s both
  ways; Google Cloud g2-standard-96: 100 Gbit/s for 8 GPUs. The share is an estimate, that of h100.
- cpu: Intel Xeon Platinum 8480+: 56 cores at 2.0 GHz with 64 float32 operations a cycle (AVX-512, two units) and 2,048 in
  bfloat16 (AMX), 8 channels of DDR5-4800, here with 256 GB. Share: chainft's own benchmark (README) attains 0.52 of the
  machine's matrix-multiply peak. Links are estimates for gloo: loopback, and a 25 Gbit/s network.

Latencies are estimates throughout: no data sheet has them.
"""


@dataclass(frozen=True)
class Machine:
    """The machine of a plan, with what was set for it."""

    name: str
    flops_per_s: float
    """Peak of a device in the arithmetic of the run."""
    attained_fraction: float
    memory_bytes: int
    """Of a device."""
    memory_bytes_per_s: float
    inside: Wire
    between: Wire
    devices_per_machine: int
    num_machines: int

    @property
    def rate(self) -> float:
        """Operations a second while a device computes."""
        return self.flops_per_s * self.attained_fraction

    def with_processes(self, launch: LaunchConfig) -> Machine:
        """As many such machines as another number of processes takes."""
        return replace(self, num_machines=max(1, int(launch.num_processes) // self.devices_per_machine))

    def link(self, ranks: Iterable[int]) -> Link:
        """The slowest link among these ranks: `between` where they are on several machines."""
        return "between" if len({rank // self.devices_per_machine for rank in ranks}) > 1 else "inside"

    def wire(self, ranks: Iterable[int]) -> Wire:
        """The figures of that link."""
        return self.between if self.link(ranks) == "between" else self.inside


def check_machine(config: PlanConfig, launch: LaunchConfig) -> None:
    """Raise ConfigError for numbers that do not fit `launch`, and for settings without effect."""
    if problems := [*_problems(config, launch)]:
        raise ConfigError.of(problems)


def machine_of(config: PlanConfig, launch: LaunchConfig, device: Device, *, mixed_precision: str) -> Machine:
    """The machine that `plan.*` describes: `device`, with what is set of it. Raises ConfigError as `check_machine`."""
    check_machine(config, launch)
    count = int(launch.num_processes)
    a_machine = config.devices_per_machine or count // launch.num_machines
    peak = device.flops_per_s if mixed_precision == "no" else device.flops_per_s_16
    return Machine(
        name=config.machine,
        flops_per_s=config.flops_per_s or peak,
        attained_fraction=config.attained_fraction or device.attained_fraction,
        memory_bytes=int(config.memory_gib * GIB if config.memory_gib else device.memory_bytes),
        memory_bytes_per_s=config.memory_bytes_per_s or device.memory_bytes_per_s,
        inside=_wire(device.inside, config.inside_bytes_per_s, config.inside_latency_s),
        between=_wire(device.between, config.between_bytes_per_s, config.between_latency_s),
        devices_per_machine=a_machine,
        num_machines=count // a_machine,
    )


def _wire(wire: Wire, bytes_per_s: float | None, latency_s: float | None) -> Wire:
    return replace(
        wire,
        bytes_per_s=wire.bytes_per_s if bytes_per_s is None else bytes_per_s,
        latency_s=wire.latency_s if latency_s is None else latency_s,
    )


def _problems(config: PlanConfig, launch: LaunchConfig) -> Iterator[Problem]:
    count, a_machine = launch.num_processes, config.devices_per_machine
    if count == "auto":
        yield Problem(
            "contradiction",
            "launch.num_processes = 'auto' counts the GPUs of the machine that trains, which a plan does not know",
            key="launch.num_processes",
            help="give a number",
        )
        return
    if a_machine is not None and count % a_machine:
        yield Problem(
            "contradiction",
            f"launch.num_processes = {count} is no multiple of plan.devices_per_machine = {a_machine}",
            key="plan.devices_per_machine",
            help="each process has a device, and all machines have equally many",
        )
        return
    if a_machine is not None and launch.num_machines not in (1, count // a_machine):
        yield Problem(
            "contradiction",
            f"plan.devices_per_machine = {a_machine} makes {count // a_machine} machines of launch.num_processes = "
            f"{count}, but launch.num_machines = {launch.num_machines}",
            key="plan.devices_per_machine",
            help="leave it away",
        )
        return
    a_machine = a_machine or count // launch.num_machines
    for kind, unused, because in (
        ("inside", a_machine == 1, "each machine has one device"),
        ("between", a_machine == count, "there is one machine"),
    ):
        for name in (f"{kind}_bytes_per_s", f"{kind}_latency_s"):
            if unused and getattr(config, name) is not None:
                yield no_effect(f"plan.{name}", getattr(config, name), because)

"""The GPUs that runs may use, told without torch, which would hold one of them."""

from __future__ import annotations

import os
import re
import subprocess

from chainft.errors import ConfigError

_LINE = re.compile(r"\s*(?P<kind>GPU|MIG)\b.*\(UUID: (?P<uuid>[^)]+)\)")


def visible_devices() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them; of one that is split (MIG), its parts.

    Without that variable by UUID: `nvidia-smi` and CUDA may number them differently.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        names = [name.strip() for name in given.split(",")]
        # CUDA ignores what comes after the first that does not exist; -1 is the usual one.
        stop = next((place for place, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:stop]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return _names(listed)


def shares(devices_per_job: int, num_parallel: int | None) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each run that may run beside the others. Raises ConfigError where there are too few."""
    devices = visible_devices()
    most = len(devices) // devices_per_job
    if not devices:
        raise ConfigError(
            f"sweep.devices_per_job = {devices_per_job} has no effect: no NVIDIA GPU is visible here",
            slug="no-effect",
            key="sweep.devices_per_job",
            help="leave it out; sweep.num_parallel sets how many runs run at once"
            if os.environ.get("CUDA_VISIBLE_DEVICES") is None
            else f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}",
        )
    if most < (num_parallel or 1):
        wanted = devices_per_job * (num_parallel or 1)
        raise ConfigError(
            f"sweep.devices_per_job = {devices_per_job} for {num_parallel or 1} runs at once needs {wanted} GPUs; "
            f"there are {len(devices)}",
            slug="too-few-devices",
            key="sweep.num_parallel" if most else "sweep.devices_per_job",
            help=f"sweep.num_parallel is at most {most}" if most else f"at most {len(devices)}",
        )
    starts = range(0, (num_parallel or most) * devices_per_job, devices_per_job)
    return [",".join(devices[start : start + devices_per_job]) for start in starts]


def _names(listed: str) -> list[str]:
    """UUIDs in the output of `nvidia-smi -L`: of the parts of a split GPU, else of the GPU."""
    names: list[str] = []
    for line in listed.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        if found["kind"] == "MIG" and names and names[-1].startswith("GPU-"):
            names.pop()
        names.append(found["uuid"])
    return names

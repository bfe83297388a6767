"""The facts about machine and software that a number may depend on: `environment.json` and every checkpoint hold them.

No path, host name, user name or environment variable is among them, so that a run folder can be given away.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from chainft import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "datasets", "numpy", "hydra-core")


def environment_facts() -> dict[str, Any]:
    """Versions, machine, devices and the commit of the current folder's repository, ready for JSON."""
    import torch

    return {
        "chainft": __version__,
        "python": platform.python_version(),
        **{name: installed for name in PACKAGES if (installed := _version(name))},
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpu_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(),
        "devices": _devices(),
        **_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """The processor's name as the kernel gives it; elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _devices() -> list[dict[str, Any]]:
    """Accelerators with their memory; empty on a machine that has only its CPU."""
    import torch

    found: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append({"type": "cuda", "name": properties.name, "memory_bytes": properties.total_memory})
    if torch.backends.mps.is_available():
        found.append({"type": "mps", "name": _cpu_model(), "memory_bytes": _memory_bytes()})
    return found


def _commit() -> dict[str, Any]:
    """Commit of the repository that the command was started in, and whether its files differ from it."""
    head = _git("rev-parse", "HEAD")
    if not head:
        return {}
    return {"git_commit": head, "git_changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def _git(*arguments: str) -> str | None:
    command = ("git", "-c", "core.fsmonitor=false", *arguments)
    # Without a lock of the index: stopped while it has one, git would leave it to the user.
    around = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False, env=around)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

"""A run whose processes Slurm started: `srun --ntasks=4 chainft train ...`, without torchrun in between.

Slurm tells each process its number by variables of its own; torch looks for others. Where the run asks chainft itself to
start processes on each machine (as the script of `--print-sbatch` does), Slurm's tasks are the machines and stay that.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from chainft.config.run import RunConfig
from chainft.errors import DistributedError

_PORTS = range(20_000, 40_000)
"""Main ports, one for each job by its number, so that two jobs on a machine do not meet."""


def adopt_step(config: RunConfig) -> None:
    """Let this process be the rank that Slurm made it. Raises DistributedError where Slurm's variables are incomplete."""
    several = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1
    starts_own = config.launch.num_processes != 1 or config.launch.num_machines > 1
    if several and not starts_own and "RANK" not in os.environ:
        os.environ.update(step_environment(os.environ))


def step_environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """What torch looks for, by what Slurm tells (srun's manual, "OUTPUT ENVIRONMENT VARIABLES")."""
    try:
        here, nodes = int(slurm["SLURM_NODEID"]), int(slurm["SLURM_STEP_NUM_NODES"])
        return {
            "RANK": slurm["SLURM_PROCID"],
            "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"],
            "LOCAL_RANK": slurm["SLURM_LOCALID"],
            "LOCAL_WORLD_SIZE": str(_tasks_of_nodes(slurm["SLURM_STEP_TASKS_PER_NODE"])[here]),
            "MASTER_ADDR": _first_host(slurm["SLURM_STEP_NODELIST"]) if nodes > 1 else "127.0.0.1",
            "MASTER_PORT": str(_PORTS[int(slurm["SLURM_JOB_ID"]) % len(_PORTS)]),
        }
    except KeyError as error:
        raise DistributedError(
            f"srun started {slurm['SLURM_STEP_NUM_TASKS']} processes, but {error.args[0]} is not set",
            slug="slurm",
            where=str(error.args[0]),
            help="start one process with launch.num_processes=N, or use the script of --print-sbatch",
        ) from error


def _tasks_of_nodes(text: str) -> list[int]:
    """Tasks of each node.

    >>> _tasks_of_nodes("4(x2),3")
    [4, 4, 3]
    """
    found: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        found += [int(count)] * int(times.rstrip(")") or 1)
    return found


def _first_host(nodes: str) -> str:
    """The first of the nodes, which Slurm writes in short: `gpu[3-5]`."""
    done = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False)
    hosts = done.stdout.split()
    if done.returncode or not hosts:
        raise DistributedError(
            f"scontrol cannot tell the hosts of {nodes!r}: {done.stderr.strip() or 'no answer'}",
            slug="slurm",
            where="SLURM_STEP_NODELIST",
            help="use the script of --print-sbatch",
        )
    return hosts[0]

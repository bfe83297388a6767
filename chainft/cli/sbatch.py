"""`chainft train ... --print-sbatch`: a script for `sbatch` that starts the same run on the machines of a Slurm cluster.

One task a machine, each of which starts its own workers. A run that Slurm stops saves before, and goes on where it
stood when its job is queued again.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from chainft.config.run import RunConfig
from chainft.errors import ConfigError

NOTICE_S = 120
"""How long before the end of its time Slurm tells a job, so that it saves."""


def words_for(words: Sequence[str]) -> list[str]:
    """The words, with an address of the main machine, which only the script will know, where there are several."""
    several = any(word.startswith("launch.num_machines=") and word != "launch.num_machines=1" for word in words)
    named = any(word.startswith("launch.main_process_ip=") for word in words)
    return [*words, "launch.main_process_ip=slurm"] if several and not named else list(words)


def sbatch_script(config: RunConfig, words: Sequence[str]) -> str:
    """The script for a run that `words` compose to `config`. Raises ConfigError where the cluster must decide."""
    launch = config.launch
    if launch.num_processes == "auto":
        raise ConfigError(
            "launch.num_processes = auto is found on the machine that trains, and the script asks for GPUs before",
            slug="contradiction",
            key="launch.num_processes",
            help="give the number of GPUs of all machines together",
        )
    a_machine = launch.num_processes // launch.num_machines
    own = ("launch.num_machines=", "launch.machine_rank=", "launch.main_process_ip=", "run=", "resume=")
    kept = [word for word in words if not word.startswith(own)]
    run = shlex.quote(config.run) if config.run else f'"{config.runs_dir}/{config.task.name}-$SLURM_JOB_ID"'
    several = launch.num_machines > 1
    place = 'launch.machine_rank="$SLURM_NODEID" launch.main_process_ip="$MAIN"' if several else ""
    gpus = [f"#SBATCH --gpus-per-node={a_machine}"] if config.train.device != "cpu" else []
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=chainft-{config.task.name}",
        f"#SBATCH --nodes={launch.num_machines}",
        "#SBATCH --ntasks-per-node=1",
        *gpus,
        f"#SBATCH --signal=SIGTERM@{NOTICE_S}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "# Add what your cluster asks for: --partition, --account, --time, --cpus-per-task. Activate your environment",
        "# before srun. The run folder must be on a file system that all machines see.",
        "set -eu",
        f"export RUN={run}",
        'export MAIN="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
        "srun bash -c '",
        '  if [ -e "$RUN/config.yaml" ]; then',
        f'    exec chainft train "run=$RUN" resume=true {_machines(config, place)}'.rstrip(),
        "  fi",
        f'  exec chainft train {_inside(kept)} "run=$RUN" {_machines(config, place)}'.rstrip(),
        "'",
    ]
    return "\n".join(lines) + "\n"


def _machines(config: RunConfig, place: str) -> str:
    return f"launch.num_machines={config.launch.num_machines} {place}" if place else ""


def _inside(words: Sequence[str]) -> str:
    """Words for a shell, within a text in single quotes."""
    return shlex.join(words).replace("'", "'\\''")

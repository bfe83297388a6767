"""Settings of a sweep (`chainft train -m`): the node `sweep`, apart from `RunConfig`, as no single run has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from chainft.config.ranges import Count, Seed


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Many runs over values given with commas, `choice(...)`, `range(...)` or `interval(...)`."""

    name: Literal["grid", "optuna"] = "grid"
    """grid: every combination; optuna: values chosen by what earlier trials scored (`pip install chainft[sweep]`)."""
    num_trials: Count = 20
    """optuna: how many runs to make, those of the sweep that is resumed included."""
    sampler: Literal["tpe", "random", "qmc", "cmaes"] = "tpe"
    """optuna: how values are chosen: by tree-structured Parzen estimators, at random, evenly spread, or by CMA-ES
    (needs the package cmaes; intervals only, as with qmc)."""
    pruner: Literal["none", "median", "hyperband"] = "none"
    """optuna: which trials are stopped early by the validation scores they have so far: none, those below the median
    of the earlier ones at the same evaluation, or by Hyperband."""
    metric: str | None = None
    """optuna: the validation metric to optimise; default: the one that chooses the best checkpoint."""
    direction: Literal["maximize", "minimize"] | None = None
    """optuna: which way is better; default: known from the metric (a loss falls, a score rises)."""
    seed: Seed = 42
    """optuna: seed of the choice of values."""
    num_parallel: Count | None = None
    """Runs at once; default 1, with `devices_per_job` as many as the devices allow, with a grid on a cluster all. On
    the CPU each gets its share of the cores, unless OMP_NUM_THREADS is set."""
    devices_per_job: Count | None = None
    """GPUs that each run has for itself, of those in CUDA_VISIBLE_DEVICES, else all; null: every run sees them all."""
    engine: Literal["local", "submitit"] = "local"
    """Where runs run: in processes on this machine, or as jobs of a cluster (`pip install chainft[cluster]`)."""
    slurm: Mapping[str, str | int] = field(default_factory=dict)
    """submitit: options of `sbatch` for each job, for example `{partition: gpu, time: 120, mem: 32G}`."""
    dir: str | None = None
    """Folder of the sweep; default `multirun/<date>_<time>`."""
    resume: bool = False
    """Go on with the sweep in `dir`: finished runs are kept, begun ones are resumed, failed ones run again."""
    warm: bool = True
    """On Linux, start each run as a fork of one process that has imported everything, which saves it the time of the
    imports; the numbers are the same. false: a new Python for each."""

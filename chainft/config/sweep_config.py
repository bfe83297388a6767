"""Settings of a sweep (`chainft train -m`): the node `sweep`, apart from `RunConfig`, as no single run has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chainft.config.ranges import Count, Seed


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Many runs over values given with commas, `choice(...)`, `range(...)` or `interval(...)`."""

    name: Literal["grid", "tpe"] = "grid"
    """grid: every combination; tpe: trials chosen by what earlier ones scored (needs `pip install chainft[sweep]`)."""
    num_trials: Count | None = None
    """tpe: how many runs to make; default 20."""
    metric: str | None = None
    """tpe: the validation metric to optimise; default: the task's main metric."""
    direction: Literal["maximize", "minimize"] | None = None
    """tpe: which way is better; default maximize, for a metric that ends in `loss` minimize."""
    seed: Seed | None = None
    """tpe: seed of the choice of trials; default 42."""
    dir: str | None = None
    """Folder of the sweep; default `multirun/<date>_<time>`."""
    resume: bool = False
    """Go on with the sweep in `dir`: finished runs are kept, begun ones are resumed, failed ones run again."""
    warm: bool = True
    """On Linux, start each run as a fork of one process that has imported everything, which saves it the time of the
    imports; the numbers are the same. false: a new Python for each."""

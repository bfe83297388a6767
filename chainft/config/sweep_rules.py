"""Rules over the settings of a sweep: what contradicts, and what would have no effect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from chainft.config import kinds
from chainft.config.no_effect import no_effect
from chainft.config.rules import has_validation
from chainft.config.run import RunConfig
from chainft.config.sweep_config import SweepConfig
from chainft.errors import Problem

if TYPE_CHECKING:
    from chainft.config.sweep import Axis

_OF_SEARCH = ("num_trials", "sampler", "pruner", "metric", "direction", "seed")
"""Settings of `sweep=optuna` alone."""
OF_RUNNING = ("num_parallel", "devices_per_job", "engine", "slurm", "warm")
"""Settings of how jobs are run, which mean nothing where they are only printed."""


def sweep_rules(config: SweepConfig, axes: Sequence[Axis], words: Sequence[str]) -> Iterator[Problem]:
    """What the settings of the sweep alone show; `words`: those of every job."""
    yield from _axes_are_sound(axes)
    yield from _words_are_for_many_runs(words)
    yield from _cluster_settings_have_a_cluster(config)
    if config.resume and config.dir is None:
        yield Problem(
            "contradiction", "sweep.resume = true, but no sweep is named", key="sweep.dir", help="add sweep.dir=FOLDER"
        )
    yield from _grid_rules(config, axes) if config.name == "grid" else _search_rules(config, axes)


def job_rules(config: SweepConfig, jobs: Sequence[RunConfig]) -> Iterator[Problem]:
    """What shows only beside the settings of the jobs."""
    yield from _devices_are_used(config, jobs)
    if machines := {job.launch.num_machines for job in jobs if job.launch.num_machines > 1}:
        yield Problem(
            "contradiction",
            f"launch.num_machines = {max(machines)}, but each run of a sweep is on one machine",
            key="launch.num_machines",
            help="run several at once instead: sweep.engine=submitit",
        )
    if config.name == "optuna" and not all(has_validation(job.data) for job in jobs):
        yield Problem(
            "contradiction",
            "sweep=optuna chooses by validation scores, but there are no validation examples",
            key="sweep.name",
            help="give data.validation or data.validation_fraction",
        )


def _devices_are_used(config: SweepConfig, jobs: Sequence[RunConfig]) -> Iterator[Problem]:
    devices = config.devices_per_job
    if devices is None:
        return
    for job in jobs:
        processes = job.launch.num_processes
        if job.train.device == "cpu":
            because = "the run computes on the CPU (train.device = 'cpu')"
            yield no_effect("sweep.devices_per_job", devices, because)
        elif processes not in ("auto", devices):
            yield Problem(
                "contradiction",
                f"sweep.devices_per_job = {devices}, but launch.num_processes = {processes} has as many devices",
                key="launch.num_processes",
                help=f"set launch.num_processes={devices}, or auto",
            )


def set_of_running(config: SweepConfig) -> Iterator[Problem]:
    """Settings of how jobs are run, where `--print-jobs` leaves that to others."""
    for name in OF_RUNNING:
        if _is_set(config, name):
            yield no_effect(f"sweep.{name}", kinds.dump(getattr(config, name)), "--print-jobs runs no job")


def _axes_are_sound(axes: Sequence[Axis]) -> Iterator[Problem]:
    if not axes:
        yield Problem(
            "bad-sweep",
            "nothing varies",
            help="give several values with commas, for example seed=1,2; or leave -m out",
        )
    keys = [axis.key for axis in axes]
    for key in sorted({key for key in keys if keys.count(key) > 1}):
        yield Problem("bad-sweep", f"{key} varies twice", key=key)


def _words_are_for_many_runs(words: Sequence[str]) -> Iterator[Problem]:
    for word in words:
        if word.lstrip("+").startswith(("run=", "resume=")):
            yield Problem(
                "no-effect",
                f"{word} names one run; a sweep has many",
                where=word,
                help="set sweep.dir or sweep.resume",
            )
        if word.lstrip("+").startswith("runs_dir="):
            yield Problem(
                "no-effect",
                f"{word} is for single runs; a sweep keeps its runs in a folder of its own",
                where=word,
                key="runs_dir",
                help="name that folder by sweep.dir=FOLDER",
            )


def _cluster_settings_have_a_cluster(config: SweepConfig) -> Iterator[Problem]:
    if config.engine == "local" and config.slurm:
        yield no_effect("sweep.slurm", dict(config.slurm), "jobs run on this machine", "set sweep.engine=submitit")
    if config.engine == "submitit" and not config.warm:
        yield no_effect("sweep.warm", False, "each job of a cluster is a new Python anyway")


def _grid_rules(config: SweepConfig, axes: Sequence[Axis]) -> Iterator[Problem]:
    for axis in axes:
        if axis.is_interval:
            yield Problem(
                "bad-sweep",
                f"{axis.key}=interval({axis.low:g},{axis.high:g}) has no list of values for sweep=grid",
                key=axis.key,
                help="list the values with commas, or choose sweep=optuna",
            )
    for name in _OF_SEARCH:
        if _is_set(config, name):
            because = "sweep=grid runs every combination"
            yield no_effect(f"sweep.{name}", getattr(config, name), because, "choose sweep=optuna")


def _search_rules(config: SweepConfig, axes: Sequence[Axis]) -> Iterator[Problem]:
    if config.sampler in ("qmc", "cmaes"):
        for axis in axes:
            if not axis.is_interval:
                yield Problem(
                    "contradiction",
                    f"sweep.sampler = {config.sampler!r} takes intervals only; {axis.key} is a list of values",
                    key="sweep.sampler",
                    help=f"give {axis.key}=interval(LOW,HIGH), or choose sweep.sampler=tpe",
                )
    if config.sampler == "cmaes" and len(axes) < 2:
        yield Problem(
            "contradiction",
            "sweep.sampler = 'cmaes' adapts how several values vary together; one alone would be drawn at random",
            key="sweep.sampler",
            help="vary two intervals or more, or choose sweep.sampler=tpe",
        )


def _is_set(config: SweepConfig, name: str) -> bool:
    default = next(info.default for info in kinds.fields_of(SweepConfig) if info.name == name)
    return bool(getattr(config, name) != default)

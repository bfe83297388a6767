"""`chainft train -m`: checks a sweep, runs its jobs (`pool`), and sums them up in one table.

`sweep.json` remembers the jobs and what they share, so that `sweep.resume=true` goes on where a sweep stopped, or was
killed, and refuses to go on with other settings. A lock keeps two sweeps apart.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from chainft.cli import trials
from chainft.cli.devices import shares
from chainft.cli.engines import Engine, LocalEngine
from chainft.cli.flags import Given
from chainft.cli.pool import Listed, Pool, Source, Stop, signals
from chainft.cli.sweep_jobs import Job, Record, Sweep, free_name, make_way, read_record
from chainft.cli.sweep_table import print_table
from chainft.config.search import PRIMARY
from chainft.config.sweep import SweepPlan, plan_sweep
from chainft.config.sweep_base import check_base
from chainft.config.sweep_rules import set_of_running
from chainft.errors import ConfigError, Problem, StorageError
from chainft.run_folder import RunFolder, holder, lock


def run_sweep(given: Given) -> int:
    """Run the sweep that the words describe; 0 when every job ended well. Raises ConfigError before any starts."""
    config_dir = Path(given.flags["config-dir"]) if given.has("config-dir") else None
    name = given.flags.get("config-name", PRIMARY)
    plan = plan_sweep(given.words, config_dir=config_dir, config_name=name)
    flags = tuple(f"--{key}={given.flags[key]}" for key in ("config-dir", "config-name") if given.has(key))
    sweep = Sweep(plan, _folder(plan), flags)
    only_prints = given.has("print-jobs")
    if only_prints:
        _check_printed(plan)
    if plan.config.name == "optuna":
        sweep.search = trials.objective(plan)
    if plan.config.resume:
        _check_same(read_record(sweep.folder), sweep)
    places = [] if only_prints else _shares(plan)
    engine = None if only_prints else _engine(sweep, places)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    with lock(RunFolder(sweep.folder), what="sweep", key="sweep.dir"), signals() as stop:
        record = read_record(sweep.folder) if plan.config.resume else None
        if engine is None:
            return _print_jobs(sweep, _grid(sweep, record))
        source = trials.Trials(sweep, record) if sweep.search is not None else _listed(sweep, record)
        return _run(sweep, source, Pool(sweep, engine, places, stop), stop)


def _run(sweep: Sweep, source: Source, pool: Pool, stop: Stop) -> int:
    """Run what is left, and show the table."""
    for job in sweep.jobs:
        if job.is_over:
            print(f"{job.label}: {job.status} from before")
    _stop_orphans(sweep, stop)
    sweep.save()
    pool.run(source)
    sweep.save()
    print_table(sweep.jobs)
    print(f"table: {sweep.folder / 'sweep.csv'}")
    if stop.signal is not None:
        return 130 if stop.signal == signal.SIGINT else 75
    return 0 if all(job.status in ("done", "kept", "pruned") for job in sweep.jobs) else 1


def _listed(sweep: Sweep, record: Record | None) -> Listed:
    jobs = _grid(sweep, record)
    print(f"sweep of {len(sweep.jobs)} runs in {sweep.folder}")
    return Listed(jobs)


def _grid(sweep: Sweep, record: Record | None) -> list[Job]:
    """The jobs of a grid that are to run; finished ones of values that are no longer asked for stay in the table."""
    wanted = {_cell(varied): varied for varied in sweep.plan.combinations()}
    for earlier in record.jobs if record else ():
        job = sweep.restore(earlier)
        if wanted.pop(_cell(job.varied), None) is None and not job.is_over:
            sweep.jobs.remove(job)
    for varied in wanted.values():
        sweep.add(varied)
    return [job for job in sweep.jobs if not job.is_over]


def _cell(varied: dict[str, str]) -> str:
    return json.dumps(varied, sort_keys=True)


def _print_jobs(sweep: Sweep, jobs: Sequence[Job]) -> int:
    """Write down the jobs and print their commands; the sweep that is resumed later takes what they left."""
    for job in jobs:
        if (user := holder(RunFolder(Path(job.folder)))) is not None:
            print(f"{job.label}: left out, it is running (process {user.pid} on {user.host})", file=sys.stderr)
            continue
        make_way(job)
        print(" ".join(["chainft", *map(_for_shell, sweep.command(job))]))
    sweep.save()
    print(f"{len(jobs)} of {len(sweep.jobs)} jobs in {sweep.folder}; table: {_resume_words(sweep)}", file=sys.stderr)
    return 0


def _for_shell(word: str) -> str:
    """A word quoted for a shell; Hydra's own quotes within double ones, which are easier to read."""
    return f'"{word}"' if "'" in word and not set('"$`\\!') & set(word) else shlex.quote(word)


def _resume_words(sweep: Sweep) -> str:
    return f"the same words with sweep.dir={sweep.folder} sweep.resume=true, without --print-jobs"


# Before the first job ------------------------------------------------------------------------------


def _folder(plan: SweepPlan) -> Path:
    if plan.config.dir is None:
        stem = Path("multirun") / time.strftime("%Y-%m-%d_%H-%M-%S")
        return free_name(stem) if stem.exists() else stem
    folder = Path(plan.config.dir)
    if not plan.config.resume and folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"folder {str(folder)!r} exists and is not empty",
            slug="sweep-exists",
            key="sweep.dir",
            help="go on with its sweep by sweep.resume=true, or choose another folder",
        )
    return folder


def _check_printed(plan: SweepPlan) -> None:
    """Raise ConfigError for what means nothing where jobs are only printed."""
    problems = list(set_of_running(plan.config))
    if plan.config.name == "optuna":
        problems.append(
            Problem(
                "contradiction",
                "--print-jobs cannot know the jobs of sweep=optuna: they follow from earlier scores",
                where="--print-jobs",
                help="choose sweep=grid, or sweep.engine=submitit",
            )
        )
    if problems:
        raise ConfigError.of(problems)


def _check_same(record: Record, sweep: Sweep) -> None:
    """Raise ConfigError where the sweep that is resumed was another one."""
    problems = list(_changed(record, sweep))
    if problems:
        raise ConfigError.of(problems)
    check_base(record.base, sweep.plan.base, where=str(record.path))


def _changed(record: Record, sweep: Sweep) -> Iterator[Problem]:
    where, help = str(record.path), "repeat its words, or start another sweep in another sweep.dir"
    name = sweep.plan.config.name
    if record.name != name:
        message = f"sweep.name was {record.name!r} in this sweep and is now {name!r}"
        yield Problem("changed-on-resume", message, where=where, key="sweep.name", help=help)
    old, new = sorted(axis["key"] for axis in record.axes), sorted(axis.key for axis in sweep.plan.axes)
    if old != new:
        message = f"what varies was {', '.join(old)} in this sweep and is now {', '.join(new)}"
        yield Problem("changed-on-resume", message, where=where, help=help)
    if record.name == name == "optuna":
        yield from trials.changed(record, sweep, help=help)


def _shares(plan: SweepPlan) -> list[str | None]:
    """The devices of each run that may run beside the others; None: all."""
    config = plan.config
    if config.devices_per_job is not None and config.engine == "local":
        return [*shares(config.devices_per_job, config.num_parallel)]
    everything = config.engine == "submitit" and config.name == "grid"
    number = config.num_parallel or (sum(1 for _ in plan.combinations()) if everything else 1)
    return [None] * number


def _engine(sweep: Sweep, places: Sequence[str | None]) -> Engine:
    config = sweep.plan.config
    if config.engine == "submitit":
        from chainft.cli.cluster import SubmititEngine

        return SubmititEngine(config, sweep.folder / "submitit")
    return LocalEngine(warm=config.warm, num_parallel=len(places))


def _stop_orphans(sweep: Sweep, stop: Stop) -> None:
    """Stop the runs that a killed sweep left running: they save, and go on as jobs of this one."""
    held: list[Job] = []
    for job in sweep.jobs:
        user = None if job.is_over else holder(RunFolder(Path(job.folder)))
        if user is None:
            continue
        if job.status != "running" or not user.is_here:
            raise StorageError(
                f"{job.label} is still running, as process {user.pid} on {user.host}",
                slug="run-in-use",
                where=job.folder,
                help="wait for it to end, or stop it; then resume the sweep",
            )
        print(f"{job.label}: still running from before; it saves and ends (process {user.pid})", flush=True)
        os.kill(user.pid, signal.SIGTERM)
        held.append(job)
    while held and stop.signal is None:
        time.sleep(0.1)
        held = [job for job in held if holder(RunFolder(Path(job.folder))) is not None]
    for job in sweep.jobs:
        if job.status == "running" and job not in held:
            job.status = "waiting"

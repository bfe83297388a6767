"""`chainft train -m`: runs the jobs of a sweep, each in a process and a folder of its own, and sums them up.

A failed job does not stop the others; Ctrl-C and SIGTERM stop the running job (which saves) and end the
sweep with its table. `sweep.json` remembers the jobs, so that `sweep.resume=true` goes on where it stopped.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from chainft.cli import trials
from chainft.cli.flags import Given
from chainft.cli.jobs import NewProcess, Process, Surroundings, WarmProcess, has_warm_process, warm_context
from chainft.cli.sweep_table import error_line, print_table, write_csv
from chainft.config.search import PRIMARY
from chainft.config.sweep import SweepPlan, plan_sweep
from chainft.errors import ConfigError
from chainft.run_folder import RunFolder, write_json

Status = Literal["done", "failed", "stopped", "kept", "waiting"]


@dataclass
class Job:
    """One run of a sweep."""

    number: int
    varied: dict[str, str]
    folder: str
    status: Status = "waiting"
    exit_code: int | None = None
    time_s: float = 0.0
    error: str | None = None
    results: dict[str, Any] = field(default_factory=dict)
    """`all_results.json` of the run."""


@dataclass
class Sweep:
    """A sweep in progress."""

    plan: SweepPlan
    folder: Path
    flags: tuple[str, ...]
    jobs: list[Job] = field(default_factory=list)
    stopped_by: int | None = None
    """The signal that ended it early."""

    @cached_property
    def _warm(self) -> ForkServerContext:
        return warm_context()

    def start(self, words: Sequence[str], log: Path) -> Process:
        """`chainft WORDS` in a process of its own, its output in `log`."""
        if self.plan.config.warm and has_warm_process():
            return WarmProcess(words, Surroundings(str(log)), self._warm)
        return NewProcess(words, log, sys.executable)

    def save(self) -> None:
        """Write `sweep.json` and `sweep.csv`."""
        words = {"words": list(self.plan.words), "axes": [asdict(axis) for axis in self.plan.axes]}
        jobs = [{key: value for key, value in asdict(job).items() if key != "results"} for job in self.jobs]
        write_json(self.folder / "sweep.json", {"format": 1, **words, "jobs": jobs})
        write_csv(self.folder / "sweep.csv", self.jobs)


def run_sweep(given: Given) -> int:
    """Run the sweep that the words describe; 0 when every job ended well. Raises ConfigError before any starts."""
    folder = Path(given.flags["config-dir"]) if given.has("config-dir") else None
    name = given.flags.get("config-name", PRIMARY)
    plan = plan_sweep(given.words, config_dir=folder, config_name=name)
    flags = tuple(f"--{key}={given.flags[key]}" for key in ("config-dir", "config-name") if given.has(key))
    sweep = Sweep(plan, _folder(plan), flags)
    known = _recorded(sweep.folder) if plan.config.resume else {}
    if plan.config.name == "tpe":
        trials.check_installed()
    sweep.folder.mkdir(parents=True, exist_ok=True)
    with _signals() as stop:
        if plan.config.name == "tpe":
            trials.run(
                sweep.plan,
                lambda number, varied: _do(sweep, _job(sweep, known, number, varied), stop),
                stopped=lambda: stop.signal is not None,
            )
        else:
            for number, varied in enumerate(plan.combinations()):
                sweep.jobs.append(_job(sweep, known, number, varied))
            print(f"sweep of {len(sweep.jobs)} runs in {sweep.folder}")
            for job in sweep.jobs:
                if stop.signal is None:
                    _do(sweep, job, stop)
    sweep.save()
    print_table(sweep.jobs)
    print(f"table: {sweep.folder / 'sweep.csv'}")
    return _exit_code(sweep, stop.signal)


class _Stop:
    """Which signal asked the sweep to end, and the process that is to get it."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.process: Process | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if self.process is not None:
            self.process.send_signal(number)


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Pass SIGINT and SIGTERM on to the running job, which saves and ends."""
    stop = _Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _do(sweep: Sweep, job: Job, stop: _Stop) -> Job:
    """Run one job to its end, unless an earlier sweep did."""
    if job not in sweep.jobs:
        sweep.jobs.append(job)
    label = ", ".join(f"{key}={value}" for key, value in job.varied.items())
    if job.status == "kept":
        print(f"[{job.number}] {label}: kept from before")
        return job
    print(f"[{job.number}] {label}: running", flush=True)
    started = time.monotonic()
    job.exit_code = _execute(sweep, job, stop)
    job.time_s = round(time.monotonic() - started, 1)
    job.results = _results(Path(job.folder))
    job.status = "done" if job.exit_code == 0 else "stopped" if stop.signal is not None else "failed"
    if job.exit_code != 0:
        job.error = error_line(_log(job)) or f"exit code {job.exit_code}"
    print(f"[{job.number}] {label}: {job.status} after {job.time_s:g} s{_outcome(job)}", flush=True)
    sweep.save()
    return job


def _execute(sweep: Sweep, job: Job, stop: _Stop) -> int:
    """Start the job in a process of its own and wait; its output goes to a log beside its folder."""
    folder = Path(job.folder)
    words = [*sweep.plan.job_words(job.varied), f"run={_quoted(job.folder)}"]
    if (folder / "checkpoints" / "last").exists():
        words = [f"run={_quoted(job.folder)}", "resume=true"]
    elif folder.exists():
        folder.rename(_free(folder))
    words = ["train", *sweep.flags, *words]
    with _log(job).open("ab") as log:
        log.write(f"$ chainft {' '.join(words)}\n".encode())
    stop.process = sweep.start(words, _log(job))
    if stop.signal is not None:
        stop.process.send_signal(stop.signal)
    code = _wait(stop.process, RunFolder(folder))
    return code if code >= 0 else 128 - code


def _wait(process: Process, folder: RunFolder) -> int:
    """Wait for the job; on a terminal, show its latest line of `metrics.jsonl`."""
    shown = ""
    while (code := process.wait(1.0)) is None:
        if sys.stdout.isatty() and (line := _progress(folder)) != shown:
            shown = line
            print(f"\r\x1b[K    {line}", end="", flush=True)
    if shown:
        print("\r\x1b[K", end="")
    return code


def _progress(folder: RunFolder) -> str:
    try:
        with folder.metrics.open("rb") as stream:
            stream.seek(max(0, folder.metrics.stat().st_size - 4096))
            last = stream.read().decode("utf-8", "replace").splitlines()[-1]
        facts = json.loads(last)
    except (OSError, ValueError, IndexError):
        return ""
    loss = facts.get("loss", facts.get("values", {}).get("loss"))
    return f"step {facts.get('step')}  epoch {facts.get('epoch')}  loss {loss}"


def _job(sweep: Sweep, known: dict[str, dict[str, Any]], number: int, varied: dict[str, str]) -> Job:
    """A job, or what an earlier sweep recorded of it."""
    earlier = known.get(json.dumps(varied, sort_keys=True))
    if earlier is None:
        taken = {int(record["number"]) for record in known.values()} | {job.number for job in sweep.jobs}
        while number in taken:
            number += 1
        return Job(number, varied, str(sweep.folder / _name(number, varied)))
    job = Job(int(earlier["number"]), varied, str(sweep.folder / Path(earlier["folder"]).name))
    job.results = _results(Path(job.folder))
    if earlier["status"] in ("done", "kept") and job.results:
        job.status, job.exit_code, job.time_s = "kept", 0, float(earlier["time_s"])
    return job


def _recorded(folder: Path) -> dict[str, dict[str, Any]]:
    """The jobs of an earlier sweep by what they vary."""
    try:
        record = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
        return {json.dumps(job["varied"], sort_keys=True): job for job in record["jobs"]}
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{str(folder)!r} holds no sweep that could be resumed (no readable sweep.json)",
            slug="no-sweep",
            key="sweep.dir",
            help="name the folder that an earlier 'chainft train -m' printed",
        ) from error


def _folder(plan: SweepPlan) -> Path:
    if plan.config.dir is None:
        stem = Path("multirun") / time.strftime("%Y-%m-%d_%H-%M-%S")
        return _free(stem) if stem.exists() else stem
    folder = Path(plan.config.dir)
    if not plan.config.resume and folder.exists() and any(folder.iterdir()):
        raise ConfigError(
            f"folder {str(folder)!r} exists and is not empty",
            slug="sweep-exists",
            key="sweep.dir",
            help="go on with its sweep by sweep.resume=true, or choose another folder",
        )
    return folder


def _free(path: Path) -> Path:
    """`path_2`, `path_3`, ...: the first that does not exist."""
    return next(other for n in range(2, 10_000) if not (other := path.with_name(f"{path.name}_{n}")).exists())


def _name(number: int, varied: dict[str, str]) -> str:
    """`003_optimizer.lr=1e-4,seed=2`, safe as a folder name."""
    text = ",".join(f"{key}={value}" for key, value in varied.items())
    return f"{number:03d}_{re.sub(r'[^A-Za-z0-9._=,+-]+', '-', text)[:100]}"


def _log(job: Job) -> Path:
    return Path(f"{job.folder}.log")


def _results(folder: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(RunFolder(folder).results.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _outcome(job: Job) -> str:
    best = job.results.get("best") or {}
    metric = job.results.get("main_metric")
    return f", {metric} {best['value']:.4f}" if metric and "value" in best else f": {job.error}" if job.error else ""


def _exit_code(sweep: Sweep, signal_number: int | None) -> int:
    if signal_number is not None:
        return 130 if signal_number == signal.SIGINT else 75
    return 0 if all(job.status in ("done", "kept") for job in sweep.jobs) else 1


def _quoted(text: str) -> str:
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"

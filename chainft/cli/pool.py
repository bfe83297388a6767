"""Runs the jobs of a sweep, several at once: each gets its share of the devices, and signals reach them all.

A failed job does not stop the others. Ctrl-C and SIGTERM are passed on to all running jobs, which save and end; then
no other starts.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from chainft.cli.engines import Engine
from chainft.cli.jobs import Process
from chainft.cli.live import LiveLines
from chainft.cli.sweep_jobs import Job, Sweep, make_way
from chainft.cli.sweep_table import best_value, error_line
from chainft.run_folder import RunFolder

POLL_S = 0.2
"""How often running jobs are looked at."""


class Source(Protocol):
    """Where jobs come from."""

    def next(self) -> Job | None:
        """The next job to run; None: there is none."""

    def is_hopeless(self, job: Job) -> bool:
        """Whether a running job is to be stopped for what it scored so far."""

    def ended(self, job: Job) -> None:
        """Learn how a job ended."""


class Listed:
    """Jobs that are known from the start."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = iter(jobs)

    def next(self) -> Job | None:
        return next(self._jobs, None)

    def is_hopeless(self, job: Job) -> bool:
        return False

    def ended(self, job: Job) -> None:
        pass


@dataclass
class Stop:
    """Which signal asked the sweep to end, and the processes that are to get it."""

    signal: int | None = None
    processes: list[Process] = field(default_factory=list)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        for process in self.processes:
            process.send_signal(number)


@contextmanager
def signals() -> Iterator[Stop]:
    """Pass SIGINT and SIGTERM on to the running jobs, each time anew."""
    stop = Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class _Running:
    job: Job
    process: Process
    share: str | None
    """Its devices."""
    started: float
    is_pruned: bool = False


class Pool:
    """Runs what a source gives, as many at once as there are shares of the devices."""

    def __init__(self, sweep: Sweep, engine: Engine, shares: Sequence[str | None], stop: Stop) -> None:
        self._sweep = sweep
        self._engine = engine
        self._free = list(shares)
        self._stop = stop
        self._running: list[_Running] = []
        self._live = LiveLines()

    def run(self, source: Source) -> None:
        """Run jobs until there is none left, or a signal came and the running ones have ended."""
        while True:
            while self._free and self._stop.signal is None and (job := source.next()) is not None:
                self._start(job)
            if not self._running:
                return
            for one in list(self._running):
                code = one.process.wait(POLL_S / len(self._running))
                if code is not None:
                    self._end(one, code)
                    source.ended(one.job)
                    self._sweep.save()
                elif not one.is_pruned and source.is_hopeless(one.job):
                    one.is_pruned = True
                    one.process.send_signal(signal.SIGTERM)
            self._live.show([f"    {one.job.label}: {line}" for one in self._running if (line := _progress(one.job))])

    def _start(self, job: Job) -> None:
        """Start a job in a process of its own; its output goes to a log beside its folder."""
        make_way(job)
        words = self._sweep.command(job)
        with job.log.open("ab") as log:
            log.write(f"$ chainft {' '.join(words)}\n".encode())
        self._live.clear()
        print(f"{job.label}: running", flush=True)
        job.status = "running"
        self._sweep.save()
        share = self._free.pop(0)
        process = self._engine.start(words, job.log, share)
        self._stop.processes.append(process)
        if self._stop.signal is not None:
            process.send_signal(self._stop.signal)
        self._running.append(_Running(job, process, share, time.monotonic()))

    def _end(self, one: _Running, code: int) -> None:
        """Note how a job ended, and free its devices."""
        self._running.remove(one)
        self._stop.processes.remove(one.process)
        self._free.append(one.share)
        job = one.job
        job.exit_code = code if code >= 0 else 128 - code
        job.time_s = round(time.monotonic() - one.started, 1)
        job.read_results()
        if code == 0:
            job.status = "done"
        elif one.is_pruned:
            job.status = "pruned"
        else:
            job.status = "stopped" if self._stop.signal is not None else "failed"
            job.error = error_line(job.log) or f"exit code {job.exit_code}"
        self._live.clear()
        print(f"{job.label}: {job.status} after {job.time_s:g} s{_outcome(job)}", flush=True)


def _outcome(job: Job) -> str:
    if job.error:
        return f": {job.error}"
    value = best_value(job)
    return "" if value is None else f", {job.results.get('main_metric') or 'validation score'} {value:.4f}"


def _progress(job: Job) -> str:
    """The latest line of the run's `metrics.jsonl`, in words."""
    metrics = RunFolder(Path(job.folder)).metrics
    try:
        with metrics.open("rb") as stream:
            stream.seek(max(0, metrics.stat().st_size - 4096))
            last = stream.read().decode("utf-8", "replace").splitlines()[-1]
        facts = json.loads(last)
    except (OSError, ValueError, IndexError):
        return ""
    loss = facts.get("loss", facts.get("values", {}).get("loss"))
    return f"step {facts.get('step')}  epoch {facts.get('epoch')}  loss {loss}"

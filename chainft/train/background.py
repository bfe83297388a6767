"""Jobs that a thread of its own does in order, while the training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """One thread; what is asked of it is done in that order. For use by one other thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._jobs: list[Future[None]] = []

    def do(self, job: Callable[[], None]) -> None:
        """Do it when what was asked for before is done."""
        self._jobs.append(self._thread.submit(job))

    @property
    def is_busy(self) -> bool:
        return not all(job.done() for job in self._jobs)

    @property
    def has_failed(self) -> bool:
        """Whether a job that is over has raised."""
        return any(job.done() and job.exception() is not None for job in self._jobs)

    def wait(self) -> None:
        """Wait for all jobs; raises the error of the first that has one. They are forgotten then."""
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.exception()
        for job in jobs:
            job.result()

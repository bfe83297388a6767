"""Where the jobs of a sweep run: in processes of this machine (here) or as jobs of a cluster (`cluster`)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cached_property
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Protocol

from chainft.cli.jobs import NewProcess, Process, Surroundings, WarmProcess, has_warm_process, warm_context


class Engine(Protocol):
    """Starts runs."""

    def start(self, words: Sequence[str], log: Path, share: str | None) -> Process:
        """`chainft WORDS`, its output at the end of `log`; `share`: the devices it has, None: all."""


class LocalEngine:
    """Processes of this machine, which share its cores."""

    def __init__(self, *, warm: bool, num_parallel: int) -> None:
        self._is_warm = warm and has_warm_process()
        self._num_threads = threads_each(num_parallel)

    @cached_property
    def _warm(self) -> ForkServerContext:
        return warm_context()

    def start(self, words: Sequence[str], log: Path, share: str | None) -> Process:
        variables = dict(os.environ)
        if share is not None:
            variables["CUDA_VISIBLE_DEVICES"] = share
        if self._num_threads is not None:
            variables["OMP_NUM_THREADS"] = str(self._num_threads)
        if self._is_warm:
            around = Surroundings(str(log), environment=variables, num_threads=self._num_threads)
            return WarmProcess(words, around, self._warm)
        return NewProcess(words, log, sys.executable, variables)


def threads_each(num_parallel: int) -> int | None:
    """Threads of each of so many runs at once: its share of the cores; None: as it would have alone."""
    if num_parallel == 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // num_parallel)

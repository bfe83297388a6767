"""Processes for the runs of a sweep: a new Python for each, or a fork of one that has imported everything.

Importing torch and transformers takes seconds, the same for each run. On Linux a warm process imports them once and
does nothing else (multiprocessing's fork server); each run is a fork of it, which no other run has touched, so it
computes what it would compute in a new process. No device and no thread pool is in use yet when it forks.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Protocol

WARM_MODULES = (
    "chainft.train.session",
    "chainft.config.compose",
    "chainft.config.hydra_edge",
    "chainft.cli.train",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "seqeval.metrics",
)
"""What a run imports before its first step, whatever its settings."""


class Process(Protocol):
    """A run in a process of its own."""

    def wait(self, timeout: float) -> int | None:
        """The exit code, as `subprocess` has it: negative for the signal that ended it; None: it runs yet."""

    def send_signal(self, number: int) -> None: ...


class NewProcess:
    """A run in a Python of its own."""

    def __init__(
        self, words: Sequence[str], log: Path, executable: str, environment: Mapping[str, str] | None = None
    ) -> None:
        # A session of its own: the terminal's Ctrl-C reaches the run once, through the sweep.
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [executable, "-m", "chainft", *words],
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )

    def wait(self, timeout: float) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def send_signal(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)


@dataclass(frozen=True)
class Surroundings:
    """Where a run in a fork finds itself."""

    output: str
    """File to whose end goes what it prints."""
    errors: str | None = None
    """File for standard error; None: `output` too."""
    input: str | None = None
    """File that it reads as standard input; None: it has none."""
    folder: str | None = None
    """Its working folder; None: that of the warm process."""
    environment: Mapping[str, str] | None = None
    """All its variables; None: those of the warm process."""
    num_threads: int | None = None
    """Threads that torch computes with; None: as the warm process found OMP_NUM_THREADS when it imported torch."""


class WarmProcess:
    """A run in a fork of the warm process."""

    def __init__(self, words: Sequence[str], around: Surroundings, context: ForkServerContext) -> None:
        self._process: ForkServerProcess = context.Process(target=run_forked, args=(list(words), around))
        self._process.start()

    def wait(self, timeout: float) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None and self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def has_warm_process() -> bool:
    """Whether runs can be forks: on Linux. Elsewhere, libraries of the system do not survive a fork."""
    return sys.platform == "linux"


def warm_context() -> ForkServerContext:
    """The warm process, which starts with the first run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WARM_MODULES))
    return context


def run_forked(words: list[str], around: Surroundings) -> None:
    """Be `chainft WORDS` in these surroundings: what a fork does, from its first line to its exit code."""
    os.setsid()
    gc.freeze()  # What the warm process imported stays; looking through it would copy its memory, too.
    redirect(1, around.output)
    redirect(2, around.errors or around.output)
    if around.input is not None:
        sys.stdin = Path(around.input).open(encoding="utf-8")  # noqa: SIM115  Open until the process ends.
    if around.folder is not None:
        os.chdir(around.folder)
    if around.environment is not None:
        os.environ.clear()
        os.environ.update(around.environment)
    if around.num_threads is not None:
        import torch

        torch.set_num_threads(around.num_threads)
    sys.argv = ["chainft", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from chainft.cli.main import main

    try:
        code = main(words)
    finally:
        atexit._run_exitfuncs()  # multiprocessing leaves by `os._exit`.
    sys.exit(code)


def redirect(stream: int, path: str) -> None:
    """Let what goes to a file descriptor of this process go to the end of a file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, stream)
    os.close(descriptor)

"""What each process does that `launch` starts: take its place, train, and leave word of how it ended."""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGTERM, Signals
from threading import Thread

import torch

from chainft.config.compose import Composed
from chainft.errors import ChainftError, DistributedError, Interrupted, Stopped
from chainft.train.outcomes import (
    crash_file,
    hang_file,
    outcome_file,
    process_file,
    read_outcomes,
    request_file,
    started_here,
    write_outcome,
)
from chainft.train.session import run_training
from chainft.train.signals import LAUNCHED, StopRequest


@dataclass(frozen=True)
class Surroundings:
    """The parent's surroundings: the process of which the workers are forks may be older than these."""

    folder: str
    environment: Mapping[str, str]
    process: int
    """Its id."""

    @classmethod
    def now(cls) -> Surroundings:
        return cls(str(Path.cwd()), dict(os.environ), os.getpid())

    def enter(self) -> None:
        """Take them over; what the launcher set for this process stays."""
        os.chdir(self.folder)
        placed = {name: value for name, value in os.environ.items() if name.startswith(_PLACE)}
        os.environ.clear()
        os.environ.update({**self.environment, **placed})


_WATCH_S = 0.5
_GRACE_S = 4.0
"""How long a process has to notice by itself that another one failed."""
_PLACE = ("RANK", "LOCAL_", "WORLD_SIZE", "MASTER_", "GROUP_", "ROLE_", "TORCHELASTIC_", "NCCL_ASYNC")


def work(composed: Composed, exchange: str, around: Surroundings) -> None:
    """Train as rank `RANK` of `WORLD_SIZE`. Ends with the exit code of what went wrong; asked to stop, it just ends."""
    around.enter()
    os.environ[LAUNCHED] = "1"
    rank = int(os.environ["RANK"])
    folder = Path(exchange)
    os.setsid()  # The terminal's Ctrl-C reaches the workers once, through the parent.
    _share_cores(int(os.environ["LOCAL_WORLD_SIZE"]))
    with _leaving_stacks(crash_file(folder, rank)), StopRequest(Path(str(composed.config.run))) as stop:
        process_file(folder, rank).write_text(str(os.getpid()))
        if request_file(folder).is_file():
            stop.request(Signals(int(request_file(folder).read_text() or SIGTERM)))
        Thread(target=_watch, args=(folder, rank, stop, around.process), daemon=True).start()
        _train(composed, folder, rank)


@contextmanager
def _leaving_stacks(path: Path) -> Iterator[None]:
    """If native code of this process, not of its forks, crashes within, the stacks of all threads are in the file."""
    was_enabled = faulthandler.is_enabled()
    os.register_at_fork(after_in_child=faulthandler.disable)
    with path.open("w") as stream:
        faulthandler.enable(stream)
        try:
            yield
        finally:
            if was_enabled:  # By torch's launcher, to the standard error.
                faulthandler.enable()
            else:
                faulthandler.disable()


def _train(composed: Composed, folder: Path, rank: int) -> None:
    try:
        run_training(composed)
    except (Stopped, Interrupted) as error:
        write_outcome(folder, rank, error)
    except ChainftError as error:
        write_outcome(folder, rank, error)
        sys.exit(error.exit_code)
    except Exception as error:
        write_outcome(folder, rank, error)
        raise
    else:
        write_outcome(folder, rank, None)


def _watch(exchange: Path, rank: int, stop: StopRequest, launcher: int) -> None:
    """End this process soon after another one failed or vanished: it may wait for that one, or hang itself, and never
    notice. Let it stop where another one stopped, before all could agree on it."""
    while True:
        time.sleep(_WATCH_S)
        if not _is_alive(launcher):
            os._exit(DistributedError.exit_code)  # Nobody is left who would tell or restart.
        vanished = _vanished(exchange)
        others = [one for one in read_outcomes(exchange).values() if one.exit_code and one.rank != rank]
        if stopped := [one for one in others if one.is_stop]:
            stop.request(SIGINT if stopped[0].exit_code == Interrupted.exit_code else SIGTERM)
        if vanished or len(stopped) < len(others) or (stopped and not stop.has_agreed):
            break
    time.sleep(_GRACE_S)
    if outcome_file(exchange, rank).is_file():
        return  # It has ended; the launcher lets such processes wait for the others.
    with suppress(OSError), hang_file(exchange, rank).open("w", encoding="utf-8") as stream:
        faulthandler.dump_traceback(stream, all_threads=True)
    if vanished:
        write_outcome(exchange, rank, ConnectionError(f"rank {vanished[0]} is not there any more"))
    os._exit(DistributedError.exit_code)


def _vanished(exchange: Path) -> list[int]:
    """Ranks of this machine that ended without a word."""
    started = started_here(exchange)
    ended = [rank for rank, process in started.items() if not _is_alive(process)]
    return [rank for rank in ended if not outcome_file(exchange, rank).is_file()]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _share_cores(num_processes: int) -> None:
    """Let the processes of a machine divide its cores, unless the user says how many threads each has."""
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // num_processes))

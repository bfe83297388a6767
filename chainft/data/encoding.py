"""The features of many examples, in order, made by as many processes as may compute.

The processes are forks of this one: a task, its tokenizer and the examples are there already, and nothing of them has to
survive a pickle. A fork has no thread but its own, so it touches neither devices nor thread pools. Where there is no
fork (not on Linux, or within a process that may start none), or it would take longer than the work, the examples are encoded here.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from chainft.data.example import Example

if TYPE_CHECKING:
    from chainft.tasks.base import Arrays, Task

logger = logging.getLogger(__name__)

CHUNK = 128
"""Examples that a process encodes at once; with fewer than some, what is sent costs more than it saves."""
LEAST = 4 * CHUNK
"""Examples for each process: some 0.2 s of work, against 0.02 to 0.05 s for a fork."""
_PARALLELISM = "TOKENIZERS_PARALLELISM"


@dataclass(frozen=True)
class _Worker:
    """A process that encodes every n-th chunk, and where it sends the features."""

    process: BaseProcess
    received: Connection


def encoded(task: Task, examples: Sequence[Example], *, num_workers: int = 1) -> Generator[list[Arrays]]:
    """The features of each example, as `task.encode` makes them.

    Raises what `task.encode` raises for the first example for which it does. A process that is killed is told in a
    warning, and its share is done here.
    """
    num_workers = min(num_workers, len(examples) // LEAST)
    if num_workers < 2 or sys.platform != "linux" or multiprocessing.current_process().daemon:
        yield from map(task.encode, examples)
        return
    num_chunks, num_done = -(-len(examples) // CHUNK), 0
    with _started(task, examples, num_workers) as workers:
        for number in range(num_chunks if workers else 0):
            worker = workers[number % num_workers]
            try:
                features = worker.received.recv()
            except (EOFError, OSError):  # The latter where it is killed while it sends.
                _tell(worker)
                break
            yield from features
            num_done += len(features)
    yield from map(task.encode, examples[num_done:])


@contextmanager
def _started(task: Task, examples: Sequence[Example], num_workers: int) -> Iterator[list[_Worker]]:
    """Processes at work, or none where they cannot be started; however the context ends, they are gone then."""
    workers: list[_Worker] = []
    try:
        try:
            with _forks_allowed():
                for number in range(num_workers):
                    workers.append(_start(task, examples, number, num_workers, [one.received for one in workers]))
        except OSError as error:  # A limit of the system on processes or memory.
            logger.warning("cannot start processes that encode examples (%s): going on in this one", error.strerror)
            _end(workers)
        yield workers
    finally:
        _end(workers)


def _end(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.received.close()
        worker.process.kill()
        worker.process.join()
    workers.clear()


def _start(
    task: Task, examples: Sequence[Example], number: int, num_workers: int, others: Sequence[Connection]
) -> _Worker:
    context = multiprocessing.get_context("fork")
    received, sent = context.Pipe(duplex=False)
    starts = range(number * CHUNK, len(examples), num_workers * CHUNK)
    process = context.Process(
        target=_encode, args=(task, examples, starts, sent, (received, *others)), name=f"encode-{number}", daemon=True
    )
    process.start()
    sent.close()  # Held by the process alone, so that its end is noticed.
    return _Worker(process, received)


def _encode(
    task: Task, examples: Sequence[Example], starts: range, sent: Connection, others: Sequence[Connection]
) -> None:
    """What a process does: its chunks in order, until it is killed or the first process is gone.

    What `task.encode` raises ends it; the first process meets the same error then.
    """
    gc.freeze()  # Garbage of the first process is its own: in a fork its end would be met twice.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # Told to the whole group: the first process decides.
    sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  Until the process ends.
    os.dup2(sys.stderr.fileno(), 2)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)  # Its other threads are not there in a fork, and would be waited for.
    for connection in others:
        connection.close()  # Else a process that waits to send would outlive the first one.
    for start in starts:
        features = [task.encode(example) for example in examples[start : start + CHUNK]]
        try:
            sent.send(features)
        except BrokenPipeError:
            return


def _tell(worker: _Worker) -> None:
    worker.process.join()
    code = worker.process.exitcode or 0
    if code < 0:
        logger.warning(
            "a process that encoded examples was ended by %s: going on in this one", signal.Signals(-code).name
        )


@contextmanager
def _forks_allowed() -> Iterator[None]:
    """Keep tokenizers from starting threads in a fork, and Python (3.12 on) from warning of threads that are idle."""
    before = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "false"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
            yield
    finally:
        if before is None:
            del os.environ[_PARALLELISM]
        else:
            os.environ[_PARALLELISM] = before

"""Several ranks for tests: processes that wait for work, each a fork of one that has imported torch and transformers."""

from __future__ import annotations

import datetime
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from chainft.cli.jobs import warm_context

SECONDS = 60
"""After which ranks that wait for each other fail, and the test with them."""


class Ranks:
    """`count` processes that run functions together, in a new process group each time."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._started: list[tuple[Any, Connection]] = []

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """`function(rank, *arguments)` of every rank; AssertionError with the first traceback where one fails."""
        if not self._started:
            context = warm_context()
            for rank in range(self.count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(rank, self.count, theirs), daemon=True)
                process.start()
                theirs.close()
                self._started.append((process, ours))
        with tempfile.TemporaryDirectory() as folder:
            for _, connection in self._started:
                connection.send((function, arguments, str(Path(folder) / "store")))
            found: dict[Any, Any] = {}
            while len(found) < self.count:
                ready = wait([one for _, one in self._started if one not in found], timeout=2 * SECONDS)
                for connection in ready:
                    assert isinstance(connection, Connection)
                    try:
                        failed, found[connection] = connection.recv()
                    except EOFError:
                        self._fail("a rank has ended")
                    if failed:
                        self._fail(found[connection])
                if not ready:
                    self._fail("ranks wait for each other")
        return [found[connection] for _, connection in self._started]

    def close(self) -> None:
        for process, connection in self._started:
            process.kill()
            process.join()
            connection.close()
        self._started = []

    def _fail(self, message: str) -> NoReturn:
        self.close()
        raise AssertionError(message)


def _serve(rank: int, count: int, connection: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        try:
            function, arguments, store = connection.recv()
        except EOFError:
            return
        try:
            dist.init_process_group(
                "gloo",
                store=dist.FileStore(store, count),
                rank=rank,
                world_size=count,
                timeout=datetime.timedelta(seconds=SECONDS),
            )
            connection.send((False, function(rank, *arguments)))
            dist.barrier()
            dist.destroy_process_group()
        except Exception:  # noqa: BLE001  It is raised again, in the test.
            connection.send((True, f"rank {rank}: {traceback.format_exc()}"))
            return

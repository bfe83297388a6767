"""The processes that compute one run together, and what they tell each other.

Process `rank` of `size` works at `place` of a pipeline of `num_places`, in copy `copy` of `num_copies` such pipelines;
without a pipeline every process is a copy. Copies of a place are neighbours in rank, since they exchange the most. Small
facts go through gloo on the CPU, so that no GPU waits for them. What may take long on one process (tokenising, saving)
is waited for at the store, where no time-out of a collective runs.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from chainft.config.launch import launched_size

BUCKET_BYTES = 64 * 2**20
"""Gradients that are summed in one exchange: large enough that its latency does not count."""
_PIECE_BYTES = 16 * 2**20
_POLL_S = 0.05
"""The longest pause between two looks at the store; the first ones are shorter."""


@dataclass
class World:
    """The processes of a run, seen from one of them. By default there is only one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    num_places: int = 1
    """Ranks of one pipeline."""
    copies: dist.ProcessGroup | None = None
    """The processes at the same place."""
    places: dist.ProcessGroup | None = None
    """The processes of the same pipeline."""
    store: Any = None
    """A `torch.distributed.Store`."""
    _shared: int = field(default=0, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    @property
    def num_copies(self) -> int:
        return self.size // self.num_places

    @property
    def copy(self) -> int:
        return self.rank % self.num_copies

    @property
    def place(self) -> int:
        return self.rank // self.num_copies

    def totals(self, *values: float) -> list[float]:
        """The sums of numbers over all copies, in double precision; the same on every process."""
        if self.num_copies == 1:
            return list(values)
        vector = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(vector, group=self.copies)
        return [float(value) for value in vector]

    def most(self, value: float) -> float:
        """The largest of the numbers that all processes give."""
        if self.is_alone:
            return value
        vector = torch.tensor([value], dtype=torch.float64)
        dist.all_reduce(vector, op=dist.ReduceOp.MAX)
        return float(vector)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by its sum over all copies; None stays only where no copy has one."""
        if self.num_copies == 1 or not parameters:
            return
        there = torch.tensor([one.grad is not None for one in parameters], dtype=torch.uint8)
        dist.all_reduce(there, op=dist.ReduceOp.MAX, group=self.copies)
        used = [one for one, flag in zip(parameters, there.tolist(), strict=True) if flag]
        for bucket in buckets(used):
            grads = [torch.zeros_like(one) if one.grad is None else one.grad for one in bucket]
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            dist.all_reduce(flat, group=self.copies)
            parts = torch.split(flat, [grad.numel() for grad in grads])
            for one, part in zip(bucket, parts, strict=True):
                one.grad = part.view_as(one)

    def gather(self, value: object) -> list[Any] | None:
        """What the copies give, in their order, on the first of them; None on the others.

        All processes call it; they wait as long as it takes until the main one is there, which may be counting scores.
        """
        self.share()
        if self.num_copies == 1:
            return [value]
        found: list[Any] | None = [None] * self.num_copies if self.copy == 0 else None
        dist.gather_object(value, found, group=self.copies, group_dst=0)
        return found

    def share(self, value: Any = None) -> Any:
        """What the main process gives (plain data), on all; the others wait as long as it takes."""
        if self.store is None:
            return value
        self._shared += 1
        key = f"chainft/share/{self._shared}"
        if self.is_main:
            self.store.set(key, json.dumps(value))
            return value
        self.wait(key)
        return json.loads(self.store.get(key))

    def wait(self, key: str, poll: Callable[[], None] = lambda: None) -> None:
        """Wait until the store has `key`, however long; `poll` may raise to stop."""
        pause = _POLL_S / 64
        while self.store is not None and not self.store.check([key]):
            poll()
            time.sleep(pause)
            pause = min(2 * pause, _POLL_S)

    def tell(self, key: str, value: Any) -> None:
        """Give plain data to whoever asks for `key`, which is used once. As `told` and `collect`, in any thread."""
        self.store.set(f"chainft/{key}", json.dumps(value))

    def told(self, key: str) -> Any:
        """What a process told under `key`; waits for it, as long as it takes."""
        self.wait(f"chainft/{key}")
        return json.loads(self.store.get(f"chainft/{key}"))

    def collect(self, key: str, value: Any) -> list[Any]:
        """What the processes give (plain data), in order of rank, on the main one; nothing on the others."""
        if not self.is_main:
            self.tell(f"{key}/{self.rank}", value)
            return []
        return [value, *(self.told(f"{key}/{rank}") for rank in range(1, self.size))]

    @contextmanager
    def main_first(self, name: str, poll: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Within the context the first process of each machine works alone, then the others: they find what it made."""
        key = f"chainft/first/{name}/{self.rank // self.local_size}"
        if self.store is not None and self.local_rank > 0:
            self.wait(key, poll)
        yield
        if self.store is not None and self.local_rank == 0:
            self.store.set(key, "done")

    def differing(self, named: Sequence[tuple[str, Tensor]]) -> list[str]:
        """Names of the tensors of which copies hold unequal values, bit by bit; on all processes."""
        if self.num_copies == 1:
            return []
        digests = torch.stack([_digest(tensor) for _, tensor in named]).cpu()
        low, high = digests.clone(), digests
        dist.all_reduce(low, op=dist.ReduceOp.MIN, group=self.copies)
        dist.all_reduce(high, op=dist.ReduceOp.MAX, group=self.copies)
        return [name for (name, _), unlike in zip(named, (low != high).any(dim=1).tolist(), strict=True) if unlike]


def join(*, num_places: int = 1, timeout_s: float, device: str) -> World:
    """Meet the other processes that the environment tells of. `device`: cpu or cuda."""
    size = launched_size() or 1
    if size == 1:
        return World()
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    timeout = timedelta(seconds=timeout_s)
    store, rank, size = next(iter(rendezvous("env://", rank, size, timeout=timeout)))
    store.set_timeout(timeout)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    if device == "cuda":
        torch.cuda.set_device(local)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    num_copies = size // num_places
    places = [list(range(first, first + num_copies)) for first in range(0, size, num_copies)]
    copies = [list(range(copy, size, num_copies)) for copy in range(num_copies)]
    at_place, in_copy = (_group(several, rank, timeout) for several in (places, copies))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return World(rank, size, local, local_size, num_places, at_place, in_copy, store)


def leave(world: World) -> None:
    """Part from the other processes, when all of them are done, however long the main one writes."""
    if world.is_alone:
        return
    world.share()
    world.store.set(f"chainft/left/{world.rank}", "")
    if world.is_main:  # It may hold the store that the others ask.
        for rank in range(world.size):
            world.wait(f"chainft/left/{rank}")
    dist.destroy_process_group()


def _group(groups: list[list[int]], rank: int, timeout: timedelta) -> dist.ProcessGroup | None:
    """Make all groups, as every process must; returns that of `rank`."""
    if len(groups) == 1 or len(groups[0]) == 1:
        return None  # The default group, that of all; or nobody to exchange anything with.
    made: list[dist.ProcessGroup] = [dist.new_group(ranks, timeout=timeout) for ranks in groups]
    return next(group for group, ranks in zip(made, groups, strict=True) if rank in ranks)


def buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """What is summed in one exchange: parameters of one type and device in their order, up to so many bytes."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for one in parameters:
        kinds.setdefault((one.dtype, one.device), []).append(one)
    for several in kinds.values():
        bucket: list[Tensor] = []
        num_bytes = 0
        for one in several:
            if bucket and num_bytes + one.numel() * one.element_size() > BUCKET_BYTES:
                yield bucket
                bucket, num_bytes = [], 0
            bucket.append(one)
            num_bytes += one.numel() * one.element_size()
        yield bucket


def _digest(tensor: Tensor) -> Tensor:
    """(2,) numbers that differ where bits do: sums of the values' bits, plain and by place, modulo 2^64.

    Made in pieces: as 64-bit numbers, a whole table of words would take six times its memory.
    """
    bits = tensor.detach().contiguous().view(-1).view(torch.uint8)
    found = torch.zeros(2, dtype=torch.int64, device=bits.device)
    for start in range(0, bits.numel(), _PIECE_BYTES):
        piece = bits[start : start + _PIECE_BYTES]
        words = torch.nn.functional.pad(piece, (0, -piece.numel() % 4)).view(torch.int32).to(torch.int64)
        places = torch.arange(words.numel(), device=words.device) + (start // 4 + 1)
        found += torch.stack([words.sum(), (words * places).sum()])
    return found

"""How much processes send each other in collective operations, and how long that takes: ring algorithms. No torch here.

Of `n` ranks in a ring each sends `b` bytes divided by n in every turn: an all-gather or a reduce-scatter takes n - 1
turns, an all-reduce both, one after the other (Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective
Communication Operations in MPICH", sections 4.1 and 4.5; no algorithm sends less: Patarasuk and Yuan 2009). NCCL and gloo
use it for large messages. The slowest link of the ring sets the pace.
"""

from __future__ import annotations

from dataclasses import dataclass

from chainft.plan.machine import Wire


@dataclass(frozen=True)
class Exchange:
    """What one rank sends in an operation, or in several."""

    num_bytes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Exchange) -> Exchange:
        return Exchange(self.num_bytes + other.num_bytes, self.seconds + other.seconds)

    def __mul__(self, times: float) -> Exchange:
        return Exchange(self.num_bytes * times, self.seconds * times)


def all_gather(num_bytes: float, num_ranks: int, wire: Wire) -> Exchange:
    """Every rank has 1/n of `num_bytes` and gets the rest; a reduce-scatter goes the other way at the same price.

    >>> all_gather(800.0, 4, Wire(bytes_per_s=100.0, latency_s=0.5))
    Exchange(num_bytes=600.0, seconds=7.5)
    """
    if num_ranks == 1 or not num_bytes:
        return Exchange()
    turn = num_bytes / num_ranks
    return Exchange((num_ranks - 1) * turn, (num_ranks - 1) * wire.seconds(turn))


def all_reduce(num_bytes: float, num_ranks: int, wire: Wire) -> Exchange:
    """Every rank has `num_bytes` and gets the sum: a reduce-scatter, then an all-gather.

    >>> all_reduce(800.0, 4, Wire(bytes_per_s=100.0, latency_s=0.5))
    Exchange(num_bytes=1200.0, seconds=15.0)
    """
    return all_gather(num_bytes, num_ranks, wire) * 2


def message(num_bytes: float, wire: Wire) -> Exchange:
    """One tensor from a rank to another."""
    return Exchange(num_bytes, wire.seconds(num_bytes))

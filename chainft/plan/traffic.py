"""What each rank sends in one update, over which link, and how long that takes by the machine model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from chainft.plan.division import Slices, StageFacts, size_of, units_of
from chainft.plan.exchange import Exchange, all_gather, all_reduce, message
from chainft.plan.followed import Followed, num_copies
from chainft.plan.machine import Link, Machine
from chainft.plan.rank_memory import Own
from chainft.world import buckets

What = Literal["gradients", "weights", "hidden states", "gradients of hidden states", "shared parameters"]


@dataclass(frozen=True)
class Traffic:
    """What one rank sends in one update for one purpose."""

    what: What
    link: Link
    num_bytes: int
    seconds: float
    """Of the operations, one after the other; those between stages run beside the computation."""


@dataclass(frozen=True)
class Gathering:
    """What one micro-batch costs in a stage that is sharded."""

    forward: Exchange
    backward: Exchange
    """Gathering once more."""
    scatter: Exchange
    """Of gradients."""


class Wires:
    """Which ranks exchange what: rank = place x copies + copy, so that copies of a place are neighbours."""

    def __init__(self, followed: Followed, machine: Machine) -> None:
        self.machine = machine
        self.num_copies = num_copies(followed.config)

    def copies(self, place: int) -> range:
        """The ranks of a place."""
        return range(place * self.num_copies, (place + 1) * self.num_copies)

    def between(self, one: int, other: int) -> tuple[int, int]:
        """A rank of each place in one copy, of the copy whose two are farthest apart."""
        pairs = [*zip(self.copies(one), self.copies(other), strict=True)]
        return next((pair for pair in pairs if self.machine.link(pair) == "between"), pairs[0])


def gathering(followed: Followed, stage: StageFacts, ranks: range, machine: Machine) -> Gathering:
    """What FSDP2 exchanges for one micro-batch. The outermost unit stays gathered between the passes."""
    launch, chain, wire = followed.config.launch, followed.chain, machine.wire(ranks)
    if not launch.fsdp:
        return Gathering(Exchange(), Exchange(), Exchange())
    units, shell = units_of(chain.model, stage.parameters)
    gathers = [all_gather(size_of(unit), len(ranks), wire) for unit in units]
    outermost = all_gather(size_of(shell), len(ranks), wire)
    trained = [size_of([one for one in unit if chain.trains(one)]) for unit in (*units, shell)]
    again = sum(gathers, Exchange()) if launch.reshard_after_forward and stage.backward else Exchange()
    scatter = sum((all_gather(size, len(ranks), wire) for size in trained), Exchange())
    return Gathering(sum(gathers, outermost), again, scatter)


def traffic(followed: Followed, own: Own, place: int, places: Sequence[int], wires: Wires) -> Iterator[Traffic]:
    """All that a rank of `place` sends; `places`: of each stage."""
    machine, count = wires.machine, followed.num_micro_batches
    ranks = wires.copies(place)
    trained = [one for one in own.parameters if followed.chain.trains(one)]
    if followed.config.launch.fsdp:
        every = [gathering(followed, own.stages[number], ranks, machine) for number in own.numbers]
        weights = sum((one.forward + one.backward for one in every), Exchange())
        yield from _some("weights", machine.link(ranks), weights * count)
        yield from _some("gradients", machine.link(ranks), sum((one.scatter for one in every), Exchange()) * count)
    else:
        reduced = [all_reduce(size_of(bucket), len(ranks), machine.wire(ranks)) for bucket in buckets(trained)]
        yield from _some("gradients", machine.link(ranks), sum(reduced, Exchange()))
    yield from _ties(followed, own, place, places, wires)
    for number in own.numbers:
        ways: list[tuple[int, float, What]] = [(number + 1, own.stages[number].sends, "hidden states")]
        if number:
            ways.append((number - 1, own.stages[number - 1].returns, "gradients of hidden states"))
        for other, size, what in ways:
            if size and places[other] != place:
                pair = wires.between(place, places[other])
                yield from _some(what, machine.link(pair), message(size, machine.wire(pair)) * count)


def _ties(followed: Followed, own: Own, place: int, places: Sequence[int], wires: Wires) -> Iterator[Traffic]:
    """Gradients of parameters of which several places have a copy: each is summed by itself."""
    machine, slices = wires.machine, Slices(wires.num_copies if followed.config.launch.fsdp else 1)
    by_places: dict[frozenset[int], Exchange] = {}
    known = [{id(one) for one in stage.parameters} for stage in own.stages]
    for one in own.parameters:
        holders = frozenset(places[number] for number, ids in enumerate(known) if id(one) in ids)
        if len(holders) > 1 and followed.chain.trains(one):
            pair = wires.between(min(holders), max(holders))
            reduced = all_reduce(size_of([slices.of(one)]), len(holders), machine.wire(pair))
            by_places[holders] = by_places.get(holders, Exchange()) + reduced
    for holders, exchange in by_places.items():
        yield from _some("shared parameters", machine.link(wires.between(min(holders), max(holders))), exchange)


def _some(what: What, link: Link, exchange: Exchange) -> Iterator[Traffic]:
    if exchange.num_bytes:
        yield Traffic(what, link, round(exchange.num_bytes), exchange.seconds)

"""What `chainft plan` prints of a run on many devices: ranks, what they send, the machine, and the time of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from chainft.plan.advice import Change
from chainft.plan.machine import Machine, Wire
from chainft.plan.scale import Place, Scale
from chainft.report.budget_words import size
from chainft.report.console import output
from chainft.report.tables import render
from chainft.report.words import plural
from chainft.tasks.base import Table

_MOMENTS = {
    "passes": "the forward and backward passes",
    "exchange": "the exchange of gradients",
    "update": "the optimizer's update",
}


def print_scale(scale: Scale, change: Change | None = None, *, console: Console | None = None) -> None:
    """The plan; `change`: with what it would fit, where it does not."""
    target = console or output()
    groups = [[*several] for _, several in groupby(scale.places, key=_looks)]
    tables = [_ranks(groups), *([_traffic(groups)] if any(one.traffic for one in scale.places) else [])]
    for table in tables:
        target.print(render(table, target))
        target.print()
    for line in (_machine(scale.machine, scale.num_processes), _division(scale), _time(scale)):
        target.print(Text(line), soft_wrap=True)
    target.print(Text(fit(scale, change), style="bold green" if scale.fits else "bold red"), soft_wrap=True)


def fit(scale: Scale, change: Change | None) -> str:
    """Whether the worst rank fits its device, and what would make it fit."""
    worst, memory = scale.worst, scale.machine.memory_bytes
    where = f"{_span([worst])} (place {worst.place})" if scale.num_places > 1 else _span([worst])
    need = f"most memory: {size(worst.memory.total)} of {size(memory)} on {where}, in {_MOMENTS[worst.memory.phase]}"
    if scale.fits:
        return f"fits: {need}"
    if change is None:
        return f"does not fit: {need}; none of the changes that were tried makes it fit, a smaller model or more frozen would"
    return f"does not fit: {need}; nearest change that fits: {' '.join(change.words)} ({size(change.total)})"


def _looks(place: Place) -> tuple[object, ...]:
    """What is printed of a place but its blocks: neighbours that look alike share a row."""
    memory = place.memory
    sizes = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.buffers, memory.total)
    return (
        *map(size, sizes),
        tuple((one.what, one.link, size(one.num_bytes), seconds(one.seconds)) for one in place.traffic),
    )


def _ranks(groups: Sequence[Sequence[Place]]) -> Table:
    rows = []
    for several in groups:
        first, last = several[0], several[-1]
        memory = first.memory
        blocks = "; ".join(first.blocks) if first is last else f"{first.blocks[0]} ... {last.blocks[-1]}"
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.buffers, memory.total)
        rows.append((_span(several), blocks, *map(size, parts), seconds(first.compute_s)))
    names = ("ranks", "blocks", "weights", "gradients", "optimizer", "activations", "buffers", "peak", "computes")
    return Table("Each rank", names, tuple(rows))


def _traffic(groups: Sequence[Sequence[Place]]) -> Table:
    rows = tuple(
        (_span(several), one.what, one.link, size(one.num_bytes), seconds(one.seconds))
        for several in groups
        for one in several[0].traffic
    )
    return Table("Each rank sends in one update", ("ranks", "what", "link", "bytes", "time"), rows)


def _span(places: Sequence[Place]) -> str:
    first, last = places[0].ranks[0], places[-1].ranks[1]
    return f"rank {first}" if first == last else f"ranks {first}-{last}"


def _machine(machine: Machine, count: int) -> str:
    links: Iterator[tuple[str, Wire]] = iter(
        (("inside a machine", machine.inside), ("between machines", machine.between))
    )
    used = [machine.devices_per_machine > 1, machine.num_machines > 1]
    wires = [
        f"{name} {wire.bytes_per_s / 1e9:g} GB/s and {wire.latency_s * 1e6:g} us"
        for (name, wire), is_used in zip(links, used, strict=True)
        if is_used
    ]
    figures = [
        f"{plural(count, 'device')} in {plural(machine.num_machines, 'machine')}",
        f"{machine.flops_per_s / 1e12:.4g} TFLOP/s at peak, of which {machine.attained_fraction:.0%} are attained",
        f"{size(machine.memory_bytes)} at {machine.memory_bytes_per_s / 1e9:.4g} GB/s",
        *wires,
    ]
    return f"Machine {machine.name} (plan.*): {', '.join(figures)}."


def _division(scale: Scale) -> str:
    parts = []
    if scale.num_places > 1:
        parts.append(f"pipeline of {scale.num_places} places ({scale.schedule})")
    if scale.num_copies > 1:
        parts.append(f"{scale.num_copies} copies{', sharded (FSDP2)' if scale.fsdp else ''}")
    batches = plural(scale.num_micro_batches, "micro-batch", "micro-batches")
    parts.append(f"{batches} of {plural(scale.micro_batch_size, 'row')} in each copy and update")
    return f"Divided: {', '.join(parts)}."


def _time(scale: Scale) -> str:
    waits = f", {scale.bubble_fraction:.1%} of it waiting (bubble)" if scale.num_places > 1 else ""
    slowest = max(scale.places, key=lambda one: one.exchange_s + one.update_s)
    after = [f"passes {seconds(scale.passes_s)}{waits}"]
    if slowest.exchange_s:
        after.append(f"exchange {seconds(slowest.exchange_s)}")
    after.append(f"update {seconds(slowest.update_s)}")
    return (
        f"Step: {seconds(scale.step_s)} ({'; '.join(after)}); {scale.examples_per_s:,.1f} examples/s, "
        f"{scale.tokens_per_s:,.0f} tokens/s, {scale.flop_utilisation:.1%} of the devices' peak."
    )


def seconds(value: float) -> str:
    """A time in the unit that fits it.

    >>> seconds(0), seconds(0.00021), seconds(0.5), seconds(75)
    ('0', '210 us', '500 ms', '75 s')
    """
    if not value:
        return "0"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}" if value * factor < 1000 else f"{value * factor:.0f} {unit}"
    return f"{value * 1e9:.3g} ns"

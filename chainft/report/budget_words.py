"""What `chainft plan` prints: a table of stages, where the peak comes from, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from chainft.plan.budget import Budget, StageCost
from chainft.report.console import output
from chainft.report.tables import render
from chainft.report.words import plural, printable
from chainft.tasks.base import Table

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_PHASES = {"forward": "the forward pass", "backward": "the backward pass", "update": "the optimizer's update"}


def size(number: float) -> str:
    """Bytes in the largest unit that leaves at least one of it.

    >>> size(0), size(1536), size(3 * 2**30)
    ('0', '1.5 KiB', '3.0 GiB')
    """
    if not number:
        return "0"
    power = 0
    while abs(number) >= 1024 and power < len(_UNITS) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.1f} {_UNITS[power]}" if power else f"{number:.0f} B"


def operations(number: float) -> str:
    """Floating-point operations.

    >>> operations(0), operations(2_500_000_000)
    ('0', '2.5 GFLOP')
    """
    if not number:
        return "0"
    for power, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= power:
            return f"{number / power:.1f} {prefix}FLOP"
    return f"{number:.0f} FLOP"


def print_budget(
    budget: Budget, *, memory: int | None = None, of_process: bool = True, console: Console | None = None
) -> None:
    """The plan, and with `memory` (bytes) whether it fits; `of_process`: with what one process takes that does it all."""
    target = console or output()
    for table in (_sizes(budget), *([_memory(budget)] if of_process else []), _work(budget)):
        target.print(render(table, target))
        target.print()
    for line in _peak_lines(budget) if of_process else _label_lines(budget):
        target.print(Text(line), soft_wrap=True)
    if memory is not None:
        fits = budget.peak.total <= memory
        target.print(Text(verdict(budget, memory), style="bold green" if fits else "bold red"), soft_wrap=True)


def verdict(budget: Budget, memory: int) -> str:
    """Whether the peak fits, with the numbers."""
    peak = budget.peak.total
    if peak <= memory:
        return f"fits: {size(peak)} of {size(memory)}, {size(memory - peak)} left"
    return f"does not fit: {size(peak)} of {size(memory)}, {size(peak - memory)} too much; {_advice(budget)}"


def _advice(budget: Budget) -> str:
    total = budget.total.memory
    if total.activations > total.weights + total.gradients + total.optimizer:
        return "lower train.micro_batch_size or model.max_length, or set train.gradient_checkpointing=true"
    return "freeze a stage, give it lora, or take an optimizer with less state (sgd, adafactor, lion)"


def _rows(budget: Budget) -> Iterator[StageCost]:
    yield from budget.stages
    if len(budget.stages) > 1:
        yield budget.total


def _sizes(budget: Budget) -> Table:
    parts = budget.batch_size / budget.micro_batch_size
    batch = plural(budget.batch_size, "example") + (f" in parts of {budget.micro_batch_size}" if parts > 1 else "")
    title = f"Plan for {budget.task}: {budget.model}, {batch}, {plural(budget.length, 'token')}, {budget.optimizer}"
    rows = tuple(
        (printable(one.name), printable(one.blocks), one.num_parameters, one.num_trainable, ", ".join(one.shared_with))
        for one in _rows(budget)
    )
    return Table(title, ("stage", "blocks", "parameters", "trainable", "shared with"), rows)


def _memory(budget: Budget) -> Table:
    rows = []
    for one in _rows(budget):
        memory = one.memory
        parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations)
        rows.append((printable(one.name), *map(size, parts), size(sum(parts))))
    return Table("Memory", ("stage", "weights", "gradients", "optimizer", "activations", "all"), tuple(rows))


def _work(budget: Budget) -> Table:
    rows = tuple(
        (
            printable(one.name),
            operations(one.flops_forward),
            operations(one.flops_backward),
            f"{one.time_share:.1%}",
        )
        for one in _rows(budget)
    )
    return Table("Work of one update", ("stage", "forward", "backward", "share of time"), rows)


def _peak_lines(budget: Budget) -> Iterator[str]:
    peak, total = budget.peak, budget.total.memory
    parts = {
        "weights": total.weights,
        "optimizer": total.optimizer,
        "gradients so far": peak.gradients,
        "activations": peak.activations,
        "temporaries": peak.temporaries,
    }
    named = ", ".join(f"{name} {size(value)}" for name, value in parts.items() if value)
    yield f"Peak: {size(peak.total)} in {_PHASES[peak.phase]}: {named}."
    yield from _label_lines(budget)


def _label_lines(budget: Budget) -> Iterator[str]:
    if budget.num_labels is not None:
        yield f"The head is planned for {plural(budget.num_labels, 'label')}; --num-labels gives another number."

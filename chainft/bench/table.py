"""What `chainft bench` prints: a row for each tool, the ratios with their spread, and what is alike and what is not."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from chainft.bench.turns import TOOLS, Compared, Turn, skipped
from chainft.report.budget_words import operations, size
from chainft.report.console import output
from chainft.report.tables import render
from chainft.report.words import MISSING, number, plural, printable
from chainft.tasks.base import Table

if TYPE_CHECKING:
    from rich.console import Console


RATIOS = {"step_s": "s/step", "tokens_per_s": "tokens/s", "whole_s": "command s", "memory_bytes": "memory"}
"""What is compared, in words."""


def print_compared(compared: Compared, *, console: Console | None = None) -> None:
    """The tables, and what is to be said about them."""
    target = console or output()
    for table in (_tools(compared), _ratios(compared)):
        target.print(render(table, target))
        target.print()
    for line in _lines(compared):
        target.print(Text(line), soft_wrap=True)


def _tools(compared: Compared) -> Table:
    first = compared.turns["chainft"][0]
    title = (
        f"{compared.task}: {printable(compared.model)}, {plural(first.steps, 'step')} of "
        f"{plural(compared.batch_size, 'example')}, {plural(len(compared.turns['chainft']), 'round')}, {first.device}"
    )
    score = f"{compared.scored} {compared.metric}" if compared.scored else "score"
    columns = ("tool", *RATIOS.values(), score)
    return Table(title, columns, tuple(_row(tool, compared.turns[tool]) for tool in TOOLS))


def _ratios(compared: Compared) -> Table:
    rows = tuple(
        (what, *(f"{value:.2f}x" for value in (ratio.mean, ratio.min, ratio.max)))
        for what, ratio in zip(RATIOS.values(), map(compared.ratios.get, RATIOS), strict=True)
        if ratio is not None
    )
    return Table("chainft better by", ("", "mean", "least", "most"), rows)


def _row(tool: str, turns: Sequence[Turn]) -> tuple[str, ...]:
    def mean(name: str) -> float:
        return float(statistics.mean(getattr(turn, name) for turn in turns))

    scores = [turn.score for turn in turns if turn.score is not None]
    return (
        tool,
        f"{mean('step_s'):.4f}",
        f"{mean('tokens_per_s'):,.0f}",
        f"{mean('whole_s'):.1f}",
        size(mean("memory_bytes")),
        number(statistics.mean(scores)) if scores else MISSING,
    )


def _lines(compared: Compared) -> Iterator[str]:
    peak, ours, theirs = compared.peak, compared.turns["chainft"], compared.turns["Trainer"]
    if "unknown" in peak:
        yield f"Share of the matrix-multiply peak: not known, {peak['unknown']}."
    else:
        share = peak["share"]
        yield (
            f"chainft's steps reach {share['mean']:.0%} ({share['min']:.0%} to {share['max']:.0%}) of this machine's "
            f"{'bfloat16' if compared.settings['bf16'] else 'float32'} matrix-multiply peak, {operations(peak['flops_per_s'])}/s on {plural(peak['threads'], 'thread')} "
            "(torch.mm of the model's sizes). Counted: 6 operations a token and weight in trained blocks "
            f"({peak['trained_parameters']:,})"
            + (
                f", {_frozen_work(compared)} in frozen ones ({peak['frozen_parameters']:,})"
                if peak["frozen_parameters"]
                else ""
            )
            + "; attention scores, embeddings and head are not."
        )
    yield (
        "Same examples, model, batch size, learning rate, schedule, seeds "
        f"({', '.join(str(turn.seed) for turn in ours)}) and steps; each tool draws its own batches. Steps count "
        f"{_counted(ours[0])}, with their batches and without evaluation. The whole command has everything, from an empty "
        "cache on; early stopping and the scores before training are left out of both."
    )
    way = "length-grouped batches and fused AdamW" if compared.settings["best"] else "its documented settings"
    way += ", under bf16" if compared.settings["bf16"] else ""
    way += ", with torch.compile" if compared.settings["torch_compile"] else ""
    yield f"The Trainer has {way}" + ("." if compared.settings["best"] else "; --best gives it its fastest ones.")
    if compared.runs_without_dropout:
        yield "Not alike: chainft runs the frozen stages without dropout (eval_mode); the Trainer has no such setting."
    if compared.rounds_hidden:
        yield "Not alike: chainft hands on hidden states in bfloat16; autocast leaves them in float32 for the Trainer."
    if compared.settings["torch_compile"]:
        yield "chainft compiles before its first step, the Trainer within its steps; both are in the whole command."
    if compared.settings["frozen"]:
        yield (
            f"{plural(len(compared.settings['frozen']), 'parameter tensor')} of the leading stages are frozen in both"
            + (", which chainft reads from its prefix cache." if compared.prefix_cache else ".")
        )
    if ours[0].tokens != theirs[0].tokens:
        what = ", ".join(f"{name} {theirs[0].tokens[name]:,} and {ours[0].tokens[name]:,}" for name in ours[0].tokens)
        yield f"Not alike: tokens of the Trainer and chainft are {what}; the Trainer cuts over-long texts, chainft makes windows."


def _counted(turn: Turn) -> str:
    first = skipped(turn.steps, turn.device)
    return "from the second on" if first == 1 else f"after the first {first}"


def _frozen_work(compared: Compared) -> str:
    return "none (read from the prefix cache)" if compared.prefix_cache else "2"

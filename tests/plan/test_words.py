"""What the plan looks like: tables, Mermaid, and the verdict."""

from __future__ import annotations

import io

from rich.console import Console

from chainft.plan.budget import Budget, Bytes, Peak, StageCost
from chainft.plan.mermaid import mermaid
from chainft.report.budget_words import print_budget, size, verdict

MIB = 2**20


def stage(name: str, blocks: str, *, trainable: int = 1000, shared: tuple[str, ...] = ()) -> StageCost:
    memory = Bytes(4 * MIB, MIB, 2 * MIB, 10 * MIB) if trainable else Bytes(4 * MIB, 0, 0, 0)
    sources = ("base",) if name == "top" else ()
    return StageCost(name, blocks, 1000, trainable, shared, sources, memory, 10**9, 2 * 10**9, 0.5)


def budget() -> Budget:
    stages = (
        stage("base", "embeddings, 0:4", trainable=0, shared=("top",)),
        stage("top", "4:6, head", shared=("base",)),
    )
    total = StageCost(
        "total", "", 2000, 1000, (), (), Bytes(8 * MIB, MIB, 2 * MIB, 10 * MIB), 2 * 10**9, 2 * 10**9, 1.0
    )
    peak = Peak(21 * MIB, "backward", MIB, 0, 10 * MIB)
    return Budget("BertForTokenClassification", "ner", "adamw", 32, 8, 128, 2, "no", stages, total, peak)


def test_mermaid_draws_stages_order_and_sharing() -> None:
    assert mermaid(budget(), size) == (
        "flowchart LR\n"
        '    s0["base<br/>embeddings, 0:4<br/>1,000 parameters, frozen<br/>weights 4.0 MiB, gradients 0<br/>'
        'optimizer 0, activations 0<br/>50% of the step"]\n'
        '    s1["top<br/>4:6, head<br/>1,000 parameters, 1,000 trained<br/>weights 4.0 MiB, gradients 1.0 MiB<br/>'
        'optimizer 2.0 MiB, activations 10.0 MiB<br/>50% of the step"]\n'
        "    s0 --> s1\n"
        "    s0 -. shares .- s1\n"
    )


def test_tables_have_every_stage_and_the_total() -> None:
    stream = io.StringIO()
    print_budget(budget(), memory=20 * MIB, console=Console(file=stream, width=120))
    text = stream.getvalue()
    for part in ("32 examples in parts of 8", "base", "4:6, head", "total", "10.0 MiB", "2.0 GFLOP", "50.0%"):
        assert part in text
    assert "Peak: 21.0 MiB in the backward pass" in text
    assert "does not fit: 21.0 MiB of 20.0 MiB, 1.0 MiB too much" in text


def test_the_verdict_says_what_is_left() -> None:
    assert verdict(budget(), 32 * MIB) == "fits: 21.0 MiB of 32.0 MiB, 11.0 MiB left"

"""`chainft plan`: what each stage of a training costs and whether it fits a memory, before any weights are loaded."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

from chainft.cli.flags import HELP, Flag, Given, flag_lines, split
from chainft.errors import ConfigError

if TYPE_CHECKING:
    from chainft.plan.budget import Budget

DOES_NOT_FIT = 2
"""Exit code where `--memory` is less than the peak."""
FLAGS = (
    HELP,
    Flag(("--memory",), "say whether it fits; exit code 2 if not", metavar="8GiB"),
    Flag(("--length",), "tokens of each sequence (default: the most that the model takes)", metavar="N"),
    Flag(("--num-labels",), "classes of the head (default 2: the data is not read)", metavar="N"),
    Flag(("--json",), "print one JSON object instead of tables"),
    Flag(("--mermaid",), "print a Mermaid flowchart instead of tables"),
)
_UNITS = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip


def run(arguments: list[str]) -> int:
    """Plan as the words say; exit code 2 where `--memory` is not enough. Raises ChainftError."""
    given = split(arguments, FLAGS)
    if given.has("help"):
        print(_help(), end="")
        return 0
    memory = _bytes(given.flags["memory"]) if given.has("memory") else None
    if given.has("json") and given.has("mermaid"):
        raise ConfigError("--json and --mermaid exclude each other", slug="bad-flag", where="--mermaid")
    budget = _planned(given)
    _print(budget, given, memory)
    return DOES_NOT_FIT if memory is not None and budget.peak.total > memory else 0


def _planned(given: Given) -> Budget:
    length, num_labels = _count(given, "length"), _count(given, "num-labels")
    from chainft.config.compose import compose

    config = compose(given.words).config
    from chainft.plan.budget import Asked, make_budget
    from chainft.report.logs import setup_logging
    from chainft.train.optimizer import build_optimizer, check_optimizer

    setup_logging(None)
    check_optimizer(config.optimizer)
    asked = Asked(length=length, num_labels=num_labels)
    return make_budget(config, lambda module: build_optimizer(module, config.optimizer), asked)


def _print(budget: Budget, given: Given, memory: int | None) -> None:
    from chainft.report.budget_words import print_budget, size, verdict

    if given.has("json"):
        fits = {} if memory is None else {"memory": memory, "fits": budget.peak.total <= memory}
        sys.stdout.write(json.dumps({**budget.to_json(), **fits}, ensure_ascii=False) + "\n")
    elif given.has("mermaid"):
        from chainft.plan.mermaid import mermaid

        sys.stdout.write(mermaid(budget, size))
        if memory is not None:
            print(verdict(budget, memory), file=sys.stderr)
    else:
        print_budget(budget, memory=memory)


def _bytes(text: str) -> int:
    """A size of memory: `8GiB`, `8GB`, `512 MiB`; a letter alone (`8G`) means the power of two."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].casefold() not in _UNITS or float(found[1]) <= 0:
        raise ConfigError(f"--memory {text}: expected a size such as 8GiB", slug="bad-flag", where=f"--memory {text}")
    return int(float(found[1]) * _UNITS[found[2].casefold()])


def _count(given: Given, key: str) -> int | None:
    text = given.flags.get(key)
    if text is None:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise ConfigError(f"--{key} {text}: expected a whole number from 1", slug="bad-flag", where=f"--{key} {text}")
    return int(text)


def _help() -> str:
    lines = [
        "usage: chainft plan task=NAME [key=value ...] [flags]",
        "",
        "Tells for each stage its parameters, the bytes of weights, gradients, optimizer state and activations, and the",
        "work of one update; then the most memory that a training step takes at once. Neither weights nor data are",
        "read: one small step of the model's own code is followed, so every architecture and setting counts as it is.",
        "The program itself, the data, and what an allocator keeps for later come on top. Attention is that of the CPU.",
        "",
        "flags:",
        *flag_lines(FLAGS),
        "",
        "examples:",
        "  chainft plan task=ner chain.split=3",
        "  chainft plan task=ner chain=frozen_base train.batch_size=64 --memory 8GiB",
        "  chainft plan task=generate model=smollm2 chain.split=2 --mermaid",
    ]
    return "\n".join(lines) + "\n"

"""`chainft plan`: what each stage of a training costs, and each rank of it on many devices, before weights are loaded."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

from chainft.cli.flags import HELP, Flag, Given, flag_lines, split
from chainft.errors import ConfigError

if TYPE_CHECKING:
    from chainft.config.plan_config import PlanConfig
    from chainft.config.run import RunConfig
    from chainft.plan.advice import Change
    from chainft.plan.budget import Budget
    from chainft.plan.followed import Followed
    from chainft.plan.machine import Machine
    from chainft.plan.optimizer_state import OptimizerForms
    from chainft.plan.scale import Scale

DOES_NOT_FIT = 2
"""Exit code where the memory of `--memory`, or of a planned device, is less than the peak."""
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
    from chainft.config.compose import compose_plan

    config, machine = compose_plan(given.words)
    if config.launch.num_processes != 1 or machine is not None:
        return _on_devices(given, config, machine, memory)
    budget = _planned(given, config)
    _print(budget, given, memory)
    return DOES_NOT_FIT if memory is not None and budget.peak.total > memory else 0


def _planned(given: Given, config: RunConfig) -> Budget:
    from chainft.plan.budget import budget_of

    return budget_of(*_followed(given, config))


def _followed(given: Given, config: RunConfig) -> tuple[Followed, OptimizerForms]:
    length, num_labels = _count(given, "length"), _count(given, "num-labels")
    from chainft.plan.followed import Asked, follow
    from chainft.plan.optimizer_state import OptimizerForms
    from chainft.report.logs import setup_logging
    from chainft.train.optimizer import build_optimizer, check_optimizer

    setup_logging(None)
    check_optimizer(config.optimizer)
    forms = OptimizerForms(lambda module: build_optimizer(module, config.optimizer))
    return follow(config, Asked(length=length, num_labels=num_labels)), forms


def _on_devices(given: Given, config: RunConfig, machine: PlanConfig | None, memory: int | None) -> int:
    """The plan of a run on many devices, or of one on a certain machine."""
    from chainft.config.plan_config import PlanConfig
    from chainft.plan.machine import check_machine

    machine = machine or PlanConfig()
    check_machine(machine, config.launch)
    if given.has("mermaid"):
        message = "--mermaid draws the stages of one process, without plan.* and launch.num_processes"
        raise ConfigError(message, slug="bad-flag", where="--mermaid")
    if memory is not None and machine.memory_gib is not None:
        message = f"--memory and plan.memory_gib = {machine.memory_gib:g} exclude each other"
        raise ConfigError(message, slug="bad-flag", where="--memory", key="plan.memory_gib")
    followed, forms = _followed(given, config)
    from chainft.plan.advice import nearest_change
    from chainft.plan.budget import budget_of
    from chainft.plan.scale import make_scale

    stated = _machine(machine, followed, memory)
    scale = make_scale(followed, forms, stated)
    change = None
    if not scale.fits:

        def planned(changed: RunConfig) -> Scale:
            return make_scale(_followed(given, changed)[0], forms, stated.with_processes(changed.launch))

        change = nearest_change(followed, planned)
    _print_scale(budget_of(followed, forms), scale, change, given)
    return 0 if scale.fits else DOES_NOT_FIT


def _machine(settings: PlanConfig, followed: Followed, memory: int | None) -> Machine:
    from dataclasses import replace

    from chainft.plan.machine import DEVICES, machine_of

    launch, train = followed.config.launch, followed.config.train
    if settings.machine == "measured":
        from chainft.bench.device_figures import measure_device
        from chainft.models.device import choose_device

        device = measure_device(
            followed.chain.model,
            device=choose_device(train.device),
            num_tokens=followed.rows * followed.length,
            num_processes=settings.devices_per_machine or int(launch.num_processes) // launch.num_machines,
        )
    else:
        device = DEVICES[settings.machine]
    machine = machine_of(settings, launch, device, mixed_precision=train.mixed_precision)
    return machine if memory is None else replace(machine, memory_bytes=memory)


def _print_scale(budget: Budget, scale: Scale, change: Change | None, given: Given) -> None:
    from chainft.report.budget_words import print_budget
    from chainft.report.scale_words import print_scale

    if given.has("json"):
        nearest = {} if change is None else {"nearest_change": list(change.words)}
        sys.stdout.write(json.dumps({**budget.to_json(), "scale": {**scale.to_json(), **nearest}}, ensure_ascii=False))
        sys.stdout.write("\n")
        return
    print_budget(budget, of_process=scale.num_processes == 1)
    print_scale(scale, change)


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
        "With launch.num_processes, or plan.machine for one process, it foresees the run on such devices: the memory of",
        "each rank, what it sends, the bubble, and the time of a step (chainft config show plan).",
        "",
        "flags:",
        *flag_lines(FLAGS),
        "",
        "examples:",
        "  chainft plan task=ner chain.split=3",
        "  chainft plan task=ner chain=frozen_base train.batch_size=64 --memory 8GiB",
        "  chainft plan task=generate model=smollm2 chain.split=2 --mermaid",
        "  chainft plan task=generate model=smollm2 launch.num_processes=64 launch.pipeline=8 plan.devices_per_machine=8",
    ]
    return "\n".join(lines) + "\n"

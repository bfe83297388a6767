"""`chainft bench`: a training of the user's own config against the same one by the Hugging Face Trainer, on this machine."""

from __future__ import annotations

import json
import sys

from chainft.cli.flags import HELP, Flag, Given, flag_lines, split
from chainft.config.search import PRIMARY
from chainft.errors import ConfigError

DEFAULT_STEPS = 30
DEFAULT_ROUNDS = 2
FLAGS = (
    HELP,
    Flag(("--steps",), f"steps of each training, at least 2 (default {DEFAULT_STEPS})", metavar="N"),
    Flag(("--rounds",), f"how often both tools take their turn (default {DEFAULT_ROUNDS})", metavar="R"),
    Flag(("--best",), "give the Trainer its fastest settings: length-grouped batches, fused AdamW"),
    Flag(("--json",), "print one JSON object instead of a table"),
    Flag(("-cd", "--config-dir"), "a folder of config files, searched before ./conf", metavar="FOLDER"),
    Flag(("-cn", "--config-name"), f"the config to start from (default {PRIMARY})", metavar="NAME"),
)


def run(arguments: list[str]) -> int:
    """Compare as the words say. Raises ChainftError."""
    given = split(arguments, FLAGS)
    if given.has("help"):
        print(_help(), end="")
        return 0
    steps = _count(given, "steps", DEFAULT_STEPS, least=2)
    rounds = _count(given, "rounds", DEFAULT_ROUNDS, least=1)
    from chainft.bench.mirror import check_mirrored
    from chainft.cli.early import check_early
    from chainft.cli.train import config_dir, config_name
    from chainft.config.compose import compose

    config = compose(given.words, config_dir=config_dir(given), config_name=config_name(given)).config
    check_mirrored(config, steps)
    check_early(config)
    from chainft.bench.turns import Bench, run_bench

    bench = Bench(config, given.words, steps, rounds, given.has("best"), config_dir(given), config_name(given))
    compared = run_bench(bench, lambda text: print(text, file=sys.stderr, flush=True))
    if given.has("json"):
        print(json.dumps(compared.to_json(), ensure_ascii=False))
        return 0
    from chainft.bench.table import print_compared

    print_compared(compared)
    return 0


def _count(given: Given, key: str, default: int, *, least: int) -> int:
    text = given.flags.get(key, str(default))
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(
            f"--{key} {text}: expected a whole number from {least}", slug="bad-flag", where=f"--{key} {text}"
        )
    return int(text)


def _help() -> str:
    lines = [
        "usage: chainft bench task=ner|classify [key=value ...] [flags]",
        "",
        "Trains a few steps by chainft and by the Hugging Face Trainer as its documentation shows it, on the same data,",
        "model and settings, by turns and each in a process of its own. Tells seconds a step, tokens a second, the time",
        "of the whole command, peak memory and score of both, their ratios, and which share of this machine's",
        "matrix-multiply peak chainft reaches. What the Trainer cannot mirror is refused by name. Leave the machine",
        "alone meanwhile: other work blurs the ratios.",
        "",
        "flags:",
        *flag_lines(FLAGS),
        "",
        "examples:",
        "  chainft bench task=ner",
        "  chainft bench task=ner chain=frozen_base --steps 60 --rounds 4 --best",
        "  chainft bench task=classify data=csv data.train=train.csv data.test=test.csv --json",
    ]
    return "\n".join(lines) + "\n"

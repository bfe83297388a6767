"""Kills one process of a run with SIGKILL at random moments, lets the run start again, and compares it with the unbroken.

    python scripts/kill_a_rank.py --kills 20 --processes 2
    python scripts/kill_a_rank.py --kills 5 --processes 4 -- launch.pipeline=2 launch.fsdp=true

Words after `--` are overrides of `chainft train`. Each run loses a random rank once, at a random moment of its life, and
goes on by `launch.max_restarts` from its last checkpoint. The losses of all steps and the final weights must be equal to
those of the unbroken run with as many processes, bit for bit. Prints also how long the others took to notice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread

from transformers import AutoTokenizer, BertConfig, BertModel

from chainft.config.compose import compose
from chainft.config.run import ModelConfig
from chainft.errors import ChainftError
from chainft.models.weights import locate
from chainft.train.launch import launch

DEFAULTS = [
    "task=ner",
    "train.max_steps=24",
    "checkpoint.every=3",
    "report.enabled=false",
    "data.max_train_samples=96",
]
"""Beside a random BERT of four blocks, whose checkpoints are small, so that many kills take minutes."""


class Killer(Thread):
    """Sends SIGKILL to one rank, so many seconds after it began."""

    def __init__(self, exchange: Path, rank: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self.file = f"*/rank_{rank}.pid"
        self.exchange = exchange
        self.seconds = seconds
        self.killed_at: float | None = None

    def run(self) -> None:
        while not (found := list(self.exchange.glob(self.file))):
            time.sleep(0.02)
        time.sleep(self.seconds)
        with suppress(OSError, ValueError):
            os.kill(int(found[0].read_text()), signal.SIGKILL)
            self.killed_at = time.monotonic()


def main() -> int:
    """Run all and print the table."""
    options = _options()
    out = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)  # The runs print too.
    words = [*DEFAULTS, f"launch.num_processes={options.processes}", "launch.timeout_s=60", *options.overrides]
    moments = random.Random(options.seed)
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tempfile.tempdir = str(folder / "exchange")
        Path(tempfile.tempdir).mkdir()
        words.append(f"model={_model(folder / 'bert')}")
        _train(folder / "warm-up", words)  # The first run waits for the imports of the process that all are forks of.
        started = time.monotonic()
        _train(folder / "unbroken", words)
        seconds = time.monotonic() - started
        expected = _trace(folder / "unbroken")
        print(f"unbroken: {seconds:.1f} s, {len(expected[0])} steps", file=out, flush=True)
        for number in range(1, options.kills + 1):
            rank, moment = moments.randrange(options.processes), moments.uniform(0.02, 0.95) * seconds
            killer = Killer(Path(tempfile.tempdir), rank, moment)
            killer.start()
            run = folder / f"killed-{number}"
            try:
                _train(run, [*words, "launch.max_restarts=2"])
                equal = _trace(run) == expected
            except ChainftError as error:
                equal = False
                print(error.render(), file=out, flush=True)
            failures += not equal
            hit = "killed" if killer.killed_at else "had ended"
            print(
                f"{number}: rank {rank} {hit} after {moment:.1f} s: {'equal' if equal else 'DIFFERENT'}",
                file=out,
                flush=True,
            )
    print(
        f"{options.kills - failures} of {options.kills} runs are bitwise equal to the unbroken one",
        file=out,
        flush=True,
    )
    return 1 if failures else 0


def _train(run: Path, words: list[str]) -> None:
    launch(compose([*words, f"run={run}"]))


def _model(folder: Path) -> Path:
    """A small BERT with random weights and the starter model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(locate(ModelConfig()).folder)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 4}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    return folder


def _trace(run: Path) -> tuple[list[tuple[int, float, float]], str]:
    """Losses and gradient norms of every step, and the digest of the final weights."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [(one["step"], one["loss"], one["grad_norm"]) for one in records if one["kind"] == "train"]
    return steps, hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many runs lose a rank")
    parser.add_argument("--processes", type=int, default=2, help="processes of each run")
    parser.add_argument("--seed", type=int, default=0, help="seed of ranks and moments")
    parser.add_argument("overrides", nargs="*", help=f"overrides of chainft train, beside {' '.join(DEFAULTS)}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

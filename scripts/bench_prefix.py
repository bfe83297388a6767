"""The prefix cache against the Hugging Face Trainer with the same blocks frozen: data, lr, batch, epochs, seeds alike.

    python scripts/bench_prefix.py ner wnut17=FOLDER --epochs 5 --seeds 1 2 --trials 8

FOLDER holds the data set as published, see `published_data`. The embeddings and five of the six blocks of MiniLM are
frozen. Both tools read the same JSON lines, made first, take turns and have equally many threads; chainft begins each
turn with an empty cache. With `--trials`, a sweep of so many learning rates is compared with as many whole commands of
the Trainer; `--parallel` of them run at once, on their share of the cores, where `--threads` is what the Trainer and
single runs of chainft have. Prints seconds an epoch from the second on, whole commands, ratios, and test scores.
`--processor-time` counts the seconds that a processor worked for either tool, for machines that others use at the same
time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from compare_trainer import METRICS, baseline_settings
from published_data import add_data, write_splits

Result = dict[str, Any]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> None:
    arguments = _arguments()
    os.environ.update({name: str(arguments.threads) for name in THREADS})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_splits(arguments.task, arguments.data, folder)
        results: dict[str, list[Result]] = {"Trainer": [], "chainft": []}
        for number, seed in enumerate(arguments.seeds):
            turns = [("Trainer", run_trainer), ("chainft", run_chainft)]
            for tool, run in turns if number % 2 == 0 else turns[::-1]:
                result = run(arguments, folder, seed)
                results[tool].append(result)
                print(f"{tool:8} seed {seed}: {_line(result)}", flush=True)
        report(arguments, results)
        if arguments.trials:
            report_sweep(arguments, results["Trainer"], run_sweep(arguments, folder))


def run_trainer(arguments: argparse.Namespace, folder: Path, seed: int) -> Result:
    """The baseline in a process of its own."""
    frozen = ["bert.embeddings", *(f"bert.encoder.layer.{number}" for number in range(arguments.frozen_blocks))]
    settings = baseline_settings(arguments, folder, seed, frozen=tuple(frozen), use_cpu=True)
    seconds, done = _timed(arguments, ["-m", "chainft.bench.trainer_baseline", str(settings)])
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {**{name: found[name] for name in ("score", "train_s", "epoch_s")}, "whole_s": seconds}


def run_chainft(arguments: argparse.Namespace, folder: Path, seed: int) -> Result:
    """`chainft train` in a process of its own, with an empty cache: tokenising and computing the prefix count."""
    run = folder / f"run-{seed}"
    words = [*_words(arguments, folder, f"cache-{seed}"), f"optimizer.lr={arguments.lr}", f"seed={seed}", f"run={run}"]
    seconds, _ = _timed(arguments, ["-m", "chainft", "train", *words])
    found = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [one for one in steps if one["kind"] == "train" and float(one["epoch"]).is_integer()]
    return {
        "score": found["test"]["after"]["values"][METRICS[arguments.task]],
        "train_s": found["train_time_s"],
        "whole_s": seconds,
        "epoch_s": [after["time_s"] - before["time_s"] for before, after in pairwise([{"time_s": 0.0}, *ends])],
        "prefix_s": json.loads((run / "plan.json").read_text(encoding="utf-8"))["prefix_cache"]["opened_in_s"],
    }


def run_sweep(arguments: argparse.Namespace, folder: Path) -> float:
    """Seconds of one sweep over learning rates, from an empty cache on.

    The processor's time of forks of a warm process is nowhere to be read: by that clock each trial is a new Python.
    """
    rates = [arguments.lr * 2 ** (number / 4 - 1) for number in range(arguments.trials)]
    words = [*_words(arguments, folder, "cache-sweep"), f"optimizer.lr={','.join(f'{rate:.3g}' for rate in rates)}"]
    words += [f"sweep.dir={folder / 'sweep'}", *(["sweep.warm=false"] if arguments.processor_time else [])]
    words += [f"sweep.num_parallel={arguments.parallel}"]
    threads = {name: str(arguments.threads // arguments.parallel) for name in THREADS}
    seconds, _ = _timed(arguments, ["-m", "chainft", "train", "-m", *words], threads)
    return seconds


def _words(arguments: argparse.Namespace, folder: Path, cache: str) -> list[str]:
    words = [
        f"task={arguments.task}",
        "data=jsonl",
        "chain=frozen_base",
        "evaluation.before_training=false",
        "train.device=cpu",
    ]
    words += [f"chain.stages.base.blocks='embeddings, :{arguments.frozen_blocks}'"]
    words += [f"chain.stages.top.blocks='{arguments.frozen_blocks}:, head'"]
    words += [f"data.{split}={folder / split}.jsonl" for split in ("train", "validation", "test")]
    words += [f"data.cache_dir={folder / cache}", f"train.num_train_epochs={arguments.epochs}"]
    return [*words, f"train.batch_size={arguments.batch_size}"]


_WITH_PROCESSOR_TIME = """
import runpy, sys, time
time.perf_counter = time.process_time
del sys.argv[0]
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script or `-m MODULE` whose own clock is the processor's."""


def _timed(
    arguments: argparse.Namespace, command: list[str], variables: Mapping[str, str] | None = None
) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Seconds of a Python command and all that it starts, with these variables of the environment beside the others."""
    clock = _processor_seconds if arguments.processor_time else time.perf_counter
    started = clock()
    python = [sys.executable, "-c", _WITH_PROCESSOR_TIME] if arguments.processor_time else [sys.executable]
    around = {**os.environ, **(variables or {})}
    done = subprocess.run([*python, *command], check=False, capture_output=True, text=True, env=around)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr}")
    return clock() - started, done


def _processor_seconds() -> float:
    """Of all ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def report(arguments: argparse.Namespace, results: dict[str, list[Result]]) -> None:
    """Means and spreads of both tools, and ratios of the turns."""
    name = arguments.data.partition("=")[0]
    print(f"\n{name}: embeddings and {arguments.frozen_blocks} blocks frozen, {arguments.epochs} epochs, ", end="")
    print(
        f"batch {arguments.batch_size}, lr {arguments.lr}, {arguments.threads} thread(s), {'processor' if arguments.processor_time else 'wall-clock'} time"
    )
    for tool, runs in results.items():
        print(f"  {tool:8} test {METRICS[arguments.task]} {_spread([run['score'] for run in runs], '.4f')}, ", end="")
        print(f"an epoch {_spread([_later(run) for run in runs], '.2f')} s, ", end="")
        print(f"whole command {_spread([run['whole_s'] for run in runs], '.1f')} s")
    for what, seconds in (("an epoch from the second on", _later), ("whole command", lambda run: run["whole_s"])):
        pairs = zip(results["Trainer"], results["chainft"], strict=True)
        ratios = [seconds(theirs) / seconds(ours) for theirs, ours in pairs]
        print(f"  {what}, Trainer / chainft: {_spread(ratios, '.2f')}")


def report_sweep(arguments: argparse.Namespace, trainer: list[Result], seconds: float) -> None:
    """A sweep against as many whole commands of the Trainer, each of the mean time measured."""
    theirs = arguments.trials * statistics.mean(run["whole_s"] for run in trainer)
    print(f"  sweep of {arguments.trials} trials, {arguments.parallel} at once: chainft {seconds:.1f} s, ", end="")
    print(f"Trainer {theirs:.1f} s ", end="")
    print(f"({arguments.trials} times its whole command): {theirs / seconds:.2f}")


def _later(run: Result) -> float:
    """Seconds of an epoch from the second on."""
    return statistics.mean(run["epoch_s"][1:])


def _spread(values: list[float], form: str) -> str:
    mean = format(statistics.mean(values), form)
    return mean if len(values) == 1 else f"{mean} ({format(min(values), form)} to {format(max(values), form)})"


def _line(result: Result) -> str:
    shown = {name: value for name, value in result.items() if name != "epoch_s"}
    epochs = " ".join(f"{seconds:.1f}" for seconds in result["epoch_s"])
    return "  ".join(f"{name} {value:.4f}" for name, value in shown.items()) + f"  epochs {epochs} s"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--frozen-blocks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processor-time", action="store_true", help="count seconds of the processor")
    parser.add_argument("--trials", type=int, default=0, help="also a sweep of so many trials")
    parser.add_argument("--parallel", type=int, default=1, help="trials at once")
    arguments = parser.parse_args()
    parallel, threads = arguments.parallel, arguments.threads
    if parallel < 1:
        parser.error(f"--parallel {parallel}: at least one trial at a time")
    if parallel > max(1, arguments.trials):
        parser.error(f"--parallel {parallel} has no effect with --trials {arguments.trials}")
    if threads % parallel:
        parser.error(f"--parallel {parallel} cannot share --threads {threads} evenly: give a multiple of {parallel}")
    return arguments


if __name__ == "__main__":
    main()

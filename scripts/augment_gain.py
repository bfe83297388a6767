"""What augmentation gains on a small training set: the same training with and without it, for as many updates.

    python scripts/augment_gain.py WNUT17_FOLDER --train 200 --copies 3 --steps 120 --seeds 1 2 3

The folder holds wnut17train.conll, emerging.dev.conll and emerging.test.annotated. Both trainings see the same
sentences of train, drawn by seed, the same validation and test; the augmented one also what `chainft augment` made of
them. Prints the test scores of each seed, their means, and the difference.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean

SPLITS = {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"}


def main() -> None:
    """Run all trainings and print the table."""
    options = _options()
    scores: dict[str, list[float]] = {"plain": [], "augmented": []}
    with tempfile.TemporaryDirectory() as made:
        for seed in options.seeds:
            folder = Path(made) / str(seed)
            data = ["task=ner", "data=conll", "data.tag_separator=','", f"data.split_seed={seed}"]
            data += [f"data.{split}={options.folder / name}" for split, name in SPLITS.items()]
            data += [f"data.max_train_samples={options.train}", f"data.max_validation_samples={options.evaluation}"]
            data += [f"data.max_test_samples={options.evaluation}", "data.unseen_labels=allow"]
            how = [f"augment={options.augment}", f"augment.num_copies={options.copies}", f"augment.seed={seed}"]
            _chainft("augment", *data, *how, *options.set, "--output", str(folder / "data"))
            new = [f"data.{split}={folder / 'data' / f'{split}.jsonl'}" for split in SPLITS] + data[-1:]
            training = [f"train.max_steps={options.steps}", f"optimizer.lr={options.lr}", f"seed={seed}"]
            training += ["report.enabled=false", "evaluation.before_training=false"]
            for name, words in {"plain": data, "augmented": ["task=ner", "data=jsonl", *new]}.items():
                scores[name].append(_score(folder / name, [*words, *training]))
            print(
                f"seed {seed}: " + ", ".join(f"{name} {found[-1]:.4f}" for name, found in scores.items()), flush=True
            )
    means = {name: fmean(found) for name, found in scores.items()}
    print(f"mean of {len(options.seeds)} seeds: " + ", ".join(f"{name} {mean:.4f}" for name, mean in means.items()))
    print(f"gain: {means['augmented'] - means['plain']:+.4f} entity F1 on test")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of WNUT-17")
    parser.add_argument("--train", type=int, default=200, help="training sentences (default 200)")
    parser.add_argument("--evaluation", type=int, default=600, help="validation and test sentences (default 600)")
    parser.add_argument("--augment", default="mix", help="the augmentation (default mix)")
    parser.add_argument("--set", nargs="*", default=[], help="its other settings, such as augment.share=1")
    parser.add_argument("--copies", type=int, default=3, help="new examples of each (default 3)")
    parser.add_argument("--steps", type=int, default=120, help="updates of 32 sentences (default 120)")
    parser.add_argument("--lr", type=float, default=5e-4, help="peak learning rate (default 5e-4)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    return parser.parse_args()


def _score(run: Path, words: list[str]) -> float:
    _chainft("train", *words, f"run={run}")
    results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    return float(results["test"]["after"]["values"]["entity_f1"])


def _chainft(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "chainft", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)


if __name__ == "__main__":
    main()

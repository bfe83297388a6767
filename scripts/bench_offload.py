"""Memory and time of training with stages that stream in and out, against plain training of the same model and data.

    python scripts/bench_offload.py --layers 12 --width 768

Makes a BERT of random weights with the starter model's tokenizer (110 million parameters as above), and has the real
command train it on starter data, in processes of their own: plain, and with `launch.offload=disk`. Prints the highest
resident memory above that of a process which has only imported what it needs, of which the anonymous part cannot be
dropped by the system, while the pages of mapped files can; seconds a step; and ratios. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

Result = dict[str, Any]
MIB = 1 << 20


def main() -> None:
    arguments = _arguments()
    if arguments.child is not None:
        _train(arguments.child)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        count = make_model(folder / "model", layers=arguments.layers, width=arguments.width)
        print(f"{count / 1e6:.1f} million parameters", flush=True)
        results = {}
        for name, more in {"plain": [], "offload": ["launch.offload=disk", *arguments.words]}.items():
            results[name] = _run(arguments, folder, name, more)
            print(f"{name:8} {_line(results[name])}", flush=True)
        plain, offload = results["plain"], results["offload"]
        for what in ("peak_mib", "anonymous_mib", "training_mib", "step_s"):
            print(f"{what}: offload / plain = {offload[what] / plain[what]:.2f}")
        most = max(abs(one - two) for one, two in zip(plain["losses"], offload["losses"], strict=True))
        print(f"largest difference between losses: {most:.1e}")


def make_model(folder: Path, *, layers: int, width: int) -> int:
    """Save the model; returns the number of its parameters."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from chainft.config.run import ModelConfig
    from chainft.models.weights import locate

    source = str(locate(ModelConfig()).folder)
    config = AutoConfig.from_pretrained(source)
    config.num_hidden_layers, config.hidden_size = layers, width
    config.num_attention_heads, config.intermediate_size = width // 64, 4 * width
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return sum(one.numel() for one in model.parameters())


def _run(arguments: argparse.Namespace, folder: Path, name: str, more: Sequence[str]) -> Result:
    words = [f"model={folder / 'model'}", f"run={folder / name}", f"train.max_steps={arguments.steps}", *more]
    words += [f"train.batch_size={arguments.batch}", f"train.micro_batch_size={arguments.micro_batch}"]
    words += [
        "train.device=cpu",
        "train.padding_free=false",
        "report.enabled=false",
        "evaluation.before_training=false",
    ]
    words += ["data.max_validation_samples=16", "data.max_test_samples=16", f"task={arguments.task}"]
    command = [sys.executable, __file__, "--child", *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: Result = json.loads(done.stdout.strip().splitlines()[-1])
    records = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [one for one in records if one["kind"] == "train"]
    seconds = [after["time_s"] - before["time_s"] for before, after in pairwise(steps)]
    return {**found, "losses": [one["loss"] for one in steps], "step_s": min(seconds)}


def _train(words: list[str]) -> None:
    """The run, in this process, whose memory is looked at every 5 ms."""
    from chainft.config.compose import compose
    from chainft.train.learner import Learner
    from chainft.train.session import run_training

    started = _resident()
    seen: list[tuple[bool, float, float]] = []
    ends = threading.Event()
    inside = threading.Event()
    begin = Learner.begin

    def noted(learner: Learner, step: int) -> Any:
        inside.set()
        try:
            return begin(learner, step)
        finally:
            inside.clear()

    def look() -> None:
        while not ends.is_set():
            seen.append((inside.is_set(), *_resident()))
            time.sleep(0.005)

    Learner.begin = noted  # type: ignore[method-assign]
    watcher = threading.Thread(target=look)
    watcher.start()
    run_training(compose(words))
    ends.set()
    watcher.join()
    found = {
        "peak_mib": max(anonymous + mapped for _, anonymous, mapped in seen) - sum(started),
        "anonymous_mib": max(anonymous for _, anonymous, _ in seen) - started[0],
        "training_mib": max(anonymous + mapped for training, anonymous, mapped in seen if training) - sum(started),
        "training_anonymous_mib": max(anonymous for training, anonymous, _ in seen if training) - started[0],
    }
    print(json.dumps(found))


def _resident() -> tuple[float, float]:
    """MiB of this process that are anonymous, and that are pages of files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    anonymous, mapped, shared = (int(lines[name].split()[0]) for name in ("RssAnon", "RssFile", "RssShmem"))
    return anonymous / 1024, (mapped + shared) / 1024


def _line(result: Result) -> str:
    return (
        f"peak {result['peak_mib']:.0f} MiB ({result['anonymous_mib']:.0f} anonymous), in steps "
        f"{result['training_mib']:.0f} ({result['training_anonymous_mib']:.0f}), {result['step_s']:.2f} s a step"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--task", default="ner")
    parser.add_argument("--folder", help="where model and runs lie meanwhile; default: the system's temporary folder")
    parser.add_argument("--words", nargs="*", default=[], help="more settings of the run with offload")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

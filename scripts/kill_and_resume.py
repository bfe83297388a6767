"""Kills a training with SIGKILL at random moments, resumes it, and compares it with the unbroken run, bit for bit.

    python scripts/kill_and_resume.py --kills 20
    python scripts/kill_and_resume.py --kills 5 -- task=classify train.num_train_epochs=2

Words after `--` are overrides of `chainft train`. Each kill is one run: start, SIGKILL at a random moment of its
life, `resume=true` until it ends. The losses of every step in metrics.jsonl and the final weights must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEFAULTS = ["task=ner", "train.num_train_epochs=2", "checkpoint.every=3", "report.enabled=false"]


def main() -> int:
    arguments = _arguments()
    overrides = arguments.overrides or DEFAULTS
    random_moment = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        started = time.perf_counter()
        _finish(folder / "unbroken", overrides)
        seconds = time.perf_counter() - started
        expected = _trace(folder / "unbroken")
        print(f"unbroken: {seconds:.1f} s, {len(expected[0])} steps", flush=True)
        failures = 0
        for number in range(1, arguments.kills + 1):
            run = folder / f"killed-{number}"
            moments = [random_moment.uniform(0.05, 0.98) * seconds for _ in range(arguments.times)]
            where = [_kill_at(run, overrides, moment, resume=index > 0) for index, moment in enumerate(moments)]
            _finish(run, overrides)
            equal = _trace(run) == expected
            failures += not equal
            verdict = "equal" if equal else "DIFFERENT"
            print(f"kill {number}: {', '.join(where)}: {verdict}", flush=True)
    print(f"{arguments.kills - failures} of {arguments.kills} resumed runs are bitwise equal to the unbroken one")
    return 1 if failures else 0


def _command(run: Path, overrides: list[str]) -> list[str]:
    """A new run, or the same with `resume=true` where the folder exists."""
    words = [f"run={run}", "resume=true"] if (run / "config.yaml").exists() else [f"run={run}", *overrides]
    return [sys.executable, "-m", "chainft", "train", *words]


def _kill_at(run: Path, overrides: list[str], moment: float, *, resume: bool) -> str:
    process = subprocess.Popen(_command(run, overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=moment)
        return f"ended before {moment:.1f} s"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    checkpoints = sorted((run / "checkpoints").glob("step-*")) if (run / "checkpoints").is_dir() else []
    newest = checkpoints[-1].name if checkpoints else "no checkpoint"
    return f"{'again ' if resume else ''}killed after {moment:.1f} s ({newest})"


def _finish(run: Path, overrides: list[str]) -> None:
    done = subprocess.run(_command(run, overrides), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"chainft train ended with {done.returncode}:\n{done.stderr}")


def _trace(run: Path) -> tuple[list[tuple[int, float, float]], str, dict[str, float]]:
    """Losses and gradient norms of every step, the digest of the final weights, and the test scores."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = [(one["step"], one["loss"], one["grad_norm"]) for one in records if one["kind"] == "train"]
    digest = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    results = json.loads((run / "all_results.json").read_text(encoding="utf-8"))
    return steps, digest, results["test"]["after"]["values"]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how many runs are killed")
    parser.add_argument("--times", type=int, default=1, help="how often each run is killed in a row")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("overrides", nargs="*", help=f"overrides of chainft train (default: {' '.join(DEFAULTS)})")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

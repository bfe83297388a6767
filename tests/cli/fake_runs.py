"""Runs that take no time: a program in the place of Python that does what a run's seed says."""

from __future__ import annotations

import csv
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from chainft.cli import engines

_PROGRAM = '''\
#!{python}
"""Stands for `python -m chainft train ...`: writes results that follow from the words, in the named folder."""
import json, os, pathlib, signal, sys, time
words = dict(word.lstrip("+").split("=", 1) for word in sys.argv[1:] if "=" in word and not word.startswith("--"))
folder = pathlib.Path(words["run"].strip("'"))
seed = int(words.get("seed") or (folder.name + ",seed=0").split("seed=")[1].split(",")[0])
with open("calls.jsonl", "a") as stream:
    threads, devices = os.environ.get("OMP_NUM_THREADS"), os.environ.get("CUDA_VISIBLE_DEVICES")
    call = {{"pid": os.getpid(), "words": sys.argv[4:], "threads": threads, "devices": devices}}
    stream.write(json.dumps(call) + "\\n")

def wait_for(path):
    for _ in range(200):
        if path.exists():
            return
        time.sleep(0.05)
    sys.exit("nobody else runs")

is_mended = pathlib.Path("mended").exists()
if seed == 13 and not is_mended:
    print("noise")
    print("error[data/unknown-label]: label 'PERS' is unknown", file=sys.stderr)
    sys.exit(3)
if seed in (21, 22):  # Two that wait for each other.
    pathlib.Path(f"here-{{seed}}").touch()
    wait_for(pathlib.Path(f"here-{{43 - seed}}"))
if seed >= 98 and not is_mended:  # Runs until it is stopped.
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (folder / "checkpoints" / "last").mkdir(parents=True)
    time.sleep(60)
folder.mkdir(parents=True, exist_ok=True)
value = 0.5 + seed / 100
if os.environ.get("FAKE_EVALUATIONS"):  # Poor ones go on until they are stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    with (folder / "metrics.jsonl").open("w") as stream:
        facts = {{"kind": "evaluation", "split": "validation", "step": 5, "epoch": 1, "values": {{"f1": value}}}}
        stream.write(json.dumps(facts) + "\\n")
    time.sleep(0.3 if seed > 3 else 20)
scores = {{"values": {{"f1": value, "loss": 1.0}}}}
results = {{"main_metric": "f1", "best": {{"value": value - 0.25}}, "validation": scores, "test": {{"after": scores}}}}
(folder / "all_results.json").write_text(json.dumps(results))
(folder / "model").mkdir(exist_ok=True)
(folder / "model" / "chainft.json").write_text("{{}}")
'''
RUN = ["train", "-m", "task=toy", "data.name=toy", "data.train=x", "sweep.warm=false"]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let jobs run the program instead of training."""
    script = folder / "fake-python"
    script.write_text(_PROGRAM.format(python=sys.executable), encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(engines, "sys", types.SimpleNamespace(executable=str(script)))
    return script


def table(folder: Path) -> list[dict[str, str]]:
    """The rows of `sweep.csv`."""
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def calls() -> list[dict[str, Any]]:
    """What the program was called with, in order: `words`, `pid`, `threads`, `devices`."""
    return [json.loads(line) for line in Path("calls.jsonl").read_text(encoding="utf-8").splitlines()]

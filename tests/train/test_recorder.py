"""`metrics.jsonl`: one line a step and evaluation, also over several starts of one run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chainft.tasks.base import Scores
from chainft.train.leading import StepFacts
from chainft.train.recorder import Recorder


def recorder(path: Path, **start: Any) -> Recorder:
    display: Any = SimpleNamespace(step=lambda record: None, evaluation=lambda record: None)
    accelerator: Any = SimpleNamespace(device=torch.device("cpu"), trackers=[])
    return Recorder(path, accelerator=accelerator, display=display, **start)


def facts(step: int) -> StepFacts:
    return StepFacts(step, 0.5, 0.1, 1.0, num_examples=8, num_tokens=80, finite=True)


def lines(path: Path) -> list[tuple[str, int]]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(record["kind"], record["step"]) for record in records]


def test_the_rate_after_a_resume_counts_the_time_since_then(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    recorder(path, from_step=4, evaluated_step=4, train_time_s=100.0).step(facts(5), 1.0, 102.0)
    assert json.loads(path.read_text(encoding="utf-8"))["examples_per_s"] == pytest.approx(4.0)


@pytest.mark.parametrize(("evaluated", "kept"), [(2, 1), (1, 0)])
def test_an_evaluation_that_is_done_again_has_one_line(tmp_path: Path, evaluated: int, kept: int) -> None:
    """Stopped after step 2 and before its evaluation; that was done after a resume, and then the process was killed."""
    path = tmp_path / "metrics.jsonl"
    first = recorder(path)
    for step in (1, 2, 3):
        first.step(facts(step), 1.0, float(step))
        if step == 2:
            first.evaluation("validation", step, 1.0, Scores({"loss": 0.5}))
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"kind": "tra')
    recorder(path, from_step=2, evaluated_step=evaluated)
    assert lines(path) == [("train", 1), ("train", 2), ("evaluation", 2)][: 2 + kept]

"""The prefix cache through the real command: killed at any moment, a run ends as the unbroken one, bit for bit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Chainft = Callable[..., "subprocess.CompletedProcess[str]"]
FROZEN = ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"]


@pytest.fixture(scope="module")
def words(tiny_encoder: Path, ner_files: list[str]) -> list[str]:
    settings = ["task=ner", f"model={tiny_encoder}", "optimizer.lr=0.01", "train.batch_size=8"]
    settings += ["train.num_train_epochs=2", "checkpoint.every=3", "report.enabled=false"]
    return [*ner_files, *settings, *FROZEN]


def succeed(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    return done


def losses(run: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(one["step"], one["loss"]) for one in records if one["kind"] == "train"]


def plan(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "plan.json").read_text(encoding="utf-8"))["prefix_cache"]
    return found


@pytest.mark.slow
def test_killed_while_computing_and_while_training_it_ends_as_the_unbroken_run(
    chainft: Chainft, words: list[str], tmp_path: Path
) -> None:
    """fault 24"""

    def fault(text: str) -> dict[str, str]:
        return {"CHAINFT_TESTING": "1", "CHAINFT_FAULT": text}

    shown = succeed(chainft("train", *words, "data.cache_dir=one", "run=whole"))
    assert "embeddings, 0:1 computed once" in shown.stderr
    killed = ["run=killed", "data.cache_dir=two"]
    assert chainft("train", *words, *killed, env=fault("kill@phase=prefix,count=2")).returncode == -9
    on = ["train", "run=killed", "resume=true"]
    assert chainft(*on, env=fault("kill@step=8,phase=backward")).returncode == -9
    first = plan(tmp_path / "killed")
    assert 0 < first["computed_bytes"] < first["bytes"]
    succeed(chainft(*on))
    assert plan(tmp_path / "killed")["computed_bytes"] == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    results = json.loads((tmp_path / "whole" / "all_results.json").read_text(encoding="utf-8"))
    found = json.loads(succeed(chainft("evaluate", "whole", "--json")).stdout)["values"]
    assert found == pytest.approx(results["test"]["after"]["values"])


@pytest.mark.slow
def test_a_sweep_computes_once(chainft: Chainft, words: list[str], tmp_path: Path) -> None:
    succeed(chainft("train", "-m", *words, "optimizer.lr=0.01,0.02", "data.cache_dir=cache", "sweep.dir=sweep"))
    plans = [plan(path.parent) for path in sorted((tmp_path / "sweep").rglob("plan.json"))]
    assert [one["computed_bytes"] > 0 for one in plans] == [True, False]
    assert plans[0]["entries"] == plans[1]["entries"]

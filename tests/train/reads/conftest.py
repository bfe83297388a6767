"""A classifier that trains for a few steps and notes what it reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from chainft.config.compose import compose
from chainft.config.saved import compose_resumed
from chainft.train.learner import Learner
from chainft.train.session import run_training
from tests.clean_process import clean_process

Train = Callable[..., dict[str, Any]]
WORDS = ("paris", "oslo", "rome", "anna", "ben", "lima", "acme", "emil")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name small files of good and bad texts of different lengths."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [
        (f"{word} and {' '.join(WORDS[:n])} {mood}", mood) for n, word in enumerate(WORDS) for mood in ("good", "bad")
    ]
    for split in ("train", "validation", "test"):
        lines = "".join(f"{text} {split},{label}\n" for text, label in rows)
        (folder / f"{split}.csv").write_text(f"text,label\n{lines}", encoding="utf-8")
    return [f"data.{split}={folder / split}.csv" for split in ("train", "validation", "test")]


@pytest.fixture
def train(tiny_encoder: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Train]:
    """Trains a classifier for eight steps with more settings; results, losses, plan, and the learner."""
    learners: list[Learner] = []
    begin = Learner.__init__

    def noted(self: Learner, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        learners.append(self)

    monkeypatch.setattr(Learner, "__init__", noted)

    def run(*words: str, name: str = "run") -> dict[str, Any]:
        settings = [f"model={tiny_encoder}", "train.batch_size=4", "train.num_train_epochs=2", "optimizer.lr=0.005"]
        settings += ["report.enabled=false", f"run={tmp_path / name}", "task=classify", "data=csv"]
        settings += [] if "data=joint" in words else texts
        kept = [one for one in settings if one.split("=")[0] not in {word.split("=")[0] for word in words}]
        AcceleratorState._reset_state(reset_partial_state=True)
        resumed = "resume=true" in words
        results = run_training(compose_resumed(str(tmp_path / name), []) if resumed else compose([*kept, *words]))
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [record["loss"] for record in map(json.loads, lines) if record["kind"] == "train"]
        plan = json.loads((tmp_path / name / "plan.json").read_text(encoding="utf-8"))
        return {**results, "losses": losses, "plan": plan, "learner": learners[-1]}

    with clean_process():
        yield run

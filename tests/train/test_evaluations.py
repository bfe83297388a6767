"""Validation is scored once for each evaluation; the end of the run takes what the best one found, and decides by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from accelerate.state import AcceleratorState

from chainft import registry
from chainft.config.compose import compose
from chainft.config.run import TaskConfig
from chainft.data.example import Example
from chainft.infer.engine import Engine
from chainft.infer.trained import load_task
from chainft.run_folder import RunFolder
from chainft.tasks.base import Prediction, Scores
from chainft.tasks.ner import Ner, NerConfig
from chainft.train import evaluations
from chainft.train.session import run_training
from chainft.world import World
from tests.clean_process import clean_process

Train = Callable[..., dict[str, Any]]


@pytest.fixture
def train(tiny_encoder: Path, ner_files: list[str], tmp_path: Path) -> Iterator[Train]:
    """Trains for two epochs; returns the results."""

    def run(*words: str) -> dict[str, Any]:
        AcceleratorState._reset_state(reset_partial_state=True)
        settings = [f"model={tiny_encoder}", "train.batch_size=8", "train.num_train_epochs=2", "optimizer.lr=0.005"]
        settings += ["report.enabled=false", f"run={tmp_path / 'run'}", *ner_files, "task=ner"]
        return run_training(compose([*settings, *words]))

    with clean_process():
        yield run


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of examples of each pass of the engine over a split."""
    seen: list[int] = []
    whole = Engine.predict_store

    def counted(self: Engine, examples: Any, *rest: Any, **options: Any) -> Any:
        seen.append(len(examples))
        return whole(self, examples, *rest, **options)

    monkeypatch.setattr(Engine, "predict_store", counted)
    return seen


def test_validation_is_not_scored_again_at_the_end_and_baselines_are_reported(
    train: Train, passes: list[int], tmp_path: Path
) -> None:
    results = train()
    assert len(passes) == 4  # test before, two epochs of validation, test after
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    told = [one for one in map(json.loads, lines) if one["kind"] == "evaluation"]
    best = next(one for one in told if one["step"] == results["best"]["step"])
    assert results["validation"]["values"] == best["values"]
    left = sorted(path.name for path in (tmp_path / "run" / "predictions").iterdir())
    assert left == ["test.jsonl", "validation.jsonl"]
    predictions = (tmp_path / "run" / "predictions" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(predictions) == passes[1]
    assert 0 < results["baselines"]["lexicon"]["entity_f1"] <= 1


def test_merged_adapters_are_scored_anew_and_baselines_can_be_left_out(train: Train, passes: list[int]) -> None:
    pytest.importorskip("peft")
    words = ["chain.order=[all]", "chain.stages.all.blocks='embeddings, :, head'", "chain.stages.all.lora={r: 2}"]
    results = train(*words, "evaluation.baselines=false")
    assert len(passes) == 5
    assert "baselines" not in results


def test_what_an_evaluation_found_holds_for_its_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may go on with changed data: its best step may have been evaluated on other examples."""

    def write(engine: Any, prepared: Any, split: str, *, path: Path) -> Scores:
        path.parent.mkdir(exist_ok=True)
        path.write_text("", encoding="utf-8")
        return Scores({"loss": 0.5})

    monkeypatch.setattr(evaluations, "score_and_write", write)
    checkpoints: Any = SimpleNamespace(best=lambda: None)
    prepared: Any = SimpleNamespace(splits=SimpleNamespace(fingerprint="before"))
    engine: Any = SimpleNamespace(world=World())
    made = evaluations.Evaluations(prepared, RunFolder(tmp_path), checkpoints, lambda: engine)
    made(7)
    kept = made.of(7)
    assert kept is not None and kept.scores["values"] == {"loss": 0.5}
    prepared.splits.fingerprint = "after"
    assert made.of(7) is None


@dataclass(frozen=True, kw_only=True)
class TunedConfig(NerConfig):
    name: str = "tuned"
    least: float | str = "auto"


class Tuned(Ner):
    """Finds no entity where its least number of words is not reached; validation says `least`."""

    config_class: ClassVar[type[TaskConfig]] = TunedConfig
    tuned_fields: ClassVar[tuple[str, ...]] = ("least",)
    seen: ClassVar[list[int]] = []

    def tuned(self, pairs: Iterable[tuple[Example, Prediction]]) -> TaskConfig:
        kept = [(example.values["tokens"], prediction["tokens"]) for example, prediction in pairs]
        assert all(given == told for given, told in kept)
        self.seen.append(len(kept))
        return replace(self.config, least=1000.0)  # type: ignore[call-arg]

    def predicted(self, prediction: Prediction) -> list[str]:
        least = getattr(self.config, "least", "auto")
        few = least != "auto" and len(prediction["tags"]) < float(least)
        return ["O"] * len(prediction["tags"]) if few else list(prediction["tags"])


@pytest.fixture
def tuned_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The words that choose the task that is tuned."""
    found, mine = registry.plugins, registry.Plugin("task", "tuned", f"{__name__}:Tuned", "chainft")
    monkeypatch.setattr(registry, "plugins", lambda kind: (*found(kind), *([mine] if kind == "task" else [])))
    monkeypatch.setattr(registry.Plugin, "load", _load(registry.Plugin.load))
    Tuned.seen.clear()
    yield ["task.name=tuned"]


def _load(plain: Callable[[registry.Plugin], Any]) -> Callable[[registry.Plugin], Any]:
    return lambda plugin: Tuned if plugin.name == "tuned" else plain(plugin)


def test_what_validation_chooses_is_used_reported_and_saved(
    train: Train, passes: list[int], tuned_task: list[str], tmp_path: Path
) -> None:
    results = train(*tuned_task)
    assert Tuned.seen == [passes[1]]
    assert results["tuned"]["least"] == 1000.0
    assert results["test"]["after"]["values"]["entity_f1"] == 0.0
    saved = json.loads((tmp_path / "run" / "model" / "chainft.json").read_text(encoding="utf-8"))
    assert saved["task"]["least"] == 1000.0
    asked = load_task(tmp_path / "run" / "model", TunedConfig())
    assert getattr(asked.config, "least", None) == 1000.0
    other = load_task(tmp_path / "run" / "model", TunedConfig(least=3.0))
    assert getattr(other.config, "least", None) == 3.0

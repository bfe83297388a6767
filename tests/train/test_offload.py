"""A model whose stages stream in and out learns what the whole one learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chainft.config.compose import compose
from chainft.config.saved import compose_resumed
from chainft.errors import ConfigError, Stopped
from chainft.run_folder import RunFolder
from chainft.train.session import run_training

Train = Callable[..., RunFolder]
SGD = ["optimizer=sgd", "optimizer.lr=0.3", "optimizer.options={momentum: 0.9}"]


@pytest.fixture
def train(tiny_encoder: Path, ner_files: list[str], tmp_path: Path) -> Train:
    """Trains a few steps, dropout and all, and returns the run folder."""

    def run(*words: str, name: str) -> RunFolder:
        settings = [f"model={tiny_encoder}", "task=ner", "train.batch_size=7", "train.num_train_epochs=2", *ner_files]
        settings += ["optimizer.lr=0.005", "report.enabled=false", f"run={tmp_path / name}"]
        settings += ["train.padding_free=false"]
        kept = [one for one in settings if one.split("=")[0] not in {word.split("=")[0] for word in words}]
        run_training(compose([*kept, *words]))
        return RunFolder(tmp_path / name)

    return run


def losses(folder: RunFolder) -> list[float]:
    records = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    return [one["loss"] for one in records if one["kind"] == "train"]


def assert_same_runs(one: RunFolder, other: RunFolder, *, tolerance: float = 1e-5) -> None:
    assert losses(one) == pytest.approx(losses(other), rel=tolerance)
    weights, others = (load_file(folder.model / "model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=tolerance, atol=tolerance)
    first, second = (json.loads(folder.results.read_text()) for folder in (one, other))
    assert first["best"]["step"] == second["best"]["step"]
    assert first["test"]["after"]["values"] == pytest.approx(second["test"]["after"]["values"], rel=10 * tolerance)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["train.micro_batch_size=2", "train.max_grad_norm=0.1", *SGD],
    ],
)
def test_an_offloaded_run_gives_the_numbers_of_a_plain_one(train: Train, words: list[str]) -> None:
    assert_same_runs(train(*words, name="plain"), train(*words, "launch.offload=disk", name="offload"))

"""Questions and a tiny model that the tests of the qa task share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from chainft.config.parse import parse
from chainft.config.run import ModelConfig
from chainft.data.batching import Batch
from chainft.data.example import Example, Origin
from chainft.infer.engine import Engine
from chainft.models.load import load_config, load_model
from chainft.tasks.base import Prediction
from chainft.tasks.qa import Qa, QaConfig

CONTEXT = "the old anna visited oslo with a good report . near the river ben sold the house . "
LONG = CONTEXT * 4 + "clara left quito yesterday ."
ROWS: list[dict[str, Any]] = [
    {"question": "person ?", "context": CONTEXT, "answers": "anna"},
    {"question": "city ?", "context": CONTEXT, "answers": "oslo"},
    {"question": "company ?", "context": CONTEXT, "answers": ""},
    {"question": "who left ?", "context": LONG, "answers": "clara"},
    {"question": "company ?", "context": LONG, "answers": []},
]


def examples(rows: Sequence[dict[str, Any]] = ROWS, file: str = "train.jsonl") -> list[Example]:
    return [Example(row, Origin(file, line)) for line, row in enumerate(rows, 1)]


def ready(folder: Path, *, max_length: int = 48, rows: Sequence[dict[str, Any]] = ROWS, **settings: Any) -> Qa:
    task = Qa(parse(QaConfig, {"name": "qa", **settings}))
    task.learn_labels({"train": examples(rows)}, unseen="error")
    task.adapt(load_config(ModelConfig(path=str(folder))))
    task.prepare(AutoTokenizer.from_pretrained(folder), max_length=max_length)
    return task


def model_of(folder: Path, task: Qa) -> PreTrainedModel:
    """A random head with large weights, so that its answers are of every kind."""
    model = load_model(ModelConfig(path=str(folder)), task, seed=3).model.eval()
    torch.nn.init.normal_(model.get_submodule("qa_outputs").weight, std=2.0)
    return model


def batch_of(task: Qa, rows: Sequence[Example]) -> Batch:
    features = [feature for one in rows for feature in task.encode(one)]
    return task.collate(features, range(len(features)))


def answered(task: Qa, model: PreTrainedModel, rows: Sequence[Example], batch_size: int = 8) -> list[Prediction]:
    from contextlib import nullcontext

    return [one.prediction for one in Engine(model, task, batch_size, autocast=nullcontext).predict(iter(rows))]

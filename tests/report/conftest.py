"""Run folders as a finished training leaves them, of each task, with realistic content."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chainft.run_folder import RunFolder

CONFIG = """task:
  name: {task}
data:
  name: conll
  train: train.conll
model:
  path: starter
optimizer:
  name: adamw
  lr: 0.0003
train:
  num_train_epochs: 5.0
seed: 42
"""
STEPS, STEPS_PER_EPOCH = 200, 40


@dataclass(frozen=True)
class SampleRun:
    """A run folder and its files as plain values, to be changed before `write`."""

    folder: RunFolder
    files: dict[str, Any]

    def write(self) -> RunFolder:
        self.folder.path.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            if content is None:
                continue
            if name.endswith(".jsonl"):
                text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
            else:
                text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            (self.folder.path / name).write_text(text, encoding="utf-8")
        return self.folder


@pytest.fixture
def ner_sample(tmp_path: Path) -> SampleRun:
    return make_ner(tmp_path / "runs" / "2026-01-01_12-00-00_ner")


@pytest.fixture
def classify_sample(tmp_path: Path) -> SampleRun:
    return make_classify(tmp_path / "runs" / "2026-01-01_12-00-00_classify", num_classes=77)


@pytest.fixture
def generate_sample(tmp_path: Path) -> SampleRun:
    return make_generate(tmp_path / "runs" / "2026-01-01_12-00-00_generate")


@pytest.fixture(params=["ner", "classify", "generate"])
def any_sample(request: pytest.FixtureRequest) -> SampleRun:
    sample: SampleRun = request.getfixturevalue(f"{request.param}_sample")
    return sample


def make_ner(path: Path) -> SampleRun:
    rng = random.Random(1)
    types = {"PER": 0.91, "ORG": 0.74, "LOC": 0.87, "MISC": 0.58}
    tags = ["O", *(f"{prefix}-{name}" for name in types for prefix in "BI")]

    def scores(factor: float) -> dict[str, Any]:
        rows = [
            [name, f * factor, f * factor * 0.97, f * factor * 0.985, 40 + 30 * i]
            for i, (name, f) in enumerate(types.items())
        ]
        token_rows = [[tag, 0.9 * factor, 0.88 * factor, 0.89 * factor, 1400 if tag == "O" else 80] for tag in tags]
        averages = [
            [name, 0.83 * factor, 0.8 * factor, 0.8123 * factor, 340] for name in ("micro", "macro", "weighted")
        ]
        return {
            "values": {
                "loss": 1.9 - 1.7 * factor,
                "entity_precision": 0.83 * factor,
                "entity_recall": 0.8 * factor,
                "entity_f1": 0.8123 * factor,
                "entity_f1_strict": 0.79 * factor,
                "token_accuracy": 0.971 * max(factor, 0.7),
                "token_f1_macro": 0.81 * factor,
            },
            "tables": [
                {
                    "title": "Entities per type",
                    "columns": ["type", "precision", "recall", "F1", "support"],
                    "rows": rows + averages,
                },
                {
                    "title": "Tokens per tag",
                    "columns": ["tag", "precision", "recall", "F1", "support"],
                    "rows": token_rows + averages,
                },
            ],
            "confusions": [
                {"title": "Tags of tokens", "labels": tags, "counts": _confusion(len(tags), rng, 80, heavy=0)}
            ],
        }

    return SampleRun(RunFolder(path), _files("ner", path, scores, "entity_f1", labels=tags, mistakes=_ner_mistakes()))


def make_classify(path: Path, *, num_classes: int) -> SampleRun:
    rng = random.Random(2)
    stems = [
        "card_arrival",
        "card_linking",
        "exchange_rate",
        "lost_or_stolen_card",
        "top_up_failed",
        "transfer_timing",
        "wrong_amount_of_cash_received",
    ]
    names = [f"{stems[i % len(stems)]}_{i // len(stems)}" if i >= len(stems) else stems[i] for i in range(num_classes)]
    f1s = [min(1.0, max(0.2, rng.gauss(0.88, 0.09))) for _ in names]

    def scores(factor: float) -> dict[str, Any]:
        rows = [
            [name, f * factor, min(1.0, f * 1.02) * factor, f * factor, 40] for name, f in zip(names, f1s, strict=True)
        ]
        averages = [["macro", 0.87 * factor, 0.872 * factor, 0.871 * factor, 40 * num_classes]]
        return {
            "values": {"loss": 4.4 - 3.9 * factor, "accuracy": 0.874 * factor, "f1_macro": 0.871 * factor},
            "tables": [
                {
                    "title": "Texts per class",
                    "columns": ["class", "precision", "recall", "F1", "support"],
                    "rows": rows + averages,
                }
            ],
            "confusions": [{"title": "Classes of texts", "labels": names, "counts": _confusion(num_classes, rng, 36)}],
        }

    mistakes = [
        _mistake(
            5.2 - i / 4,
            f"My card number {i} was taken yesterday and I still wait for the new one, what now?",
            names[i % num_classes],
            names[(i * 3 + 1) % num_classes],
        )
        for i in range(12)
    ]
    return SampleRun(RunFolder(path), _files("classify", path, scores, "accuracy", labels=names, mistakes=mistakes))


def make_generate(path: Path) -> SampleRun:
    def scores(factor: float) -> dict[str, Any]:
        return {
            "values": {
                "loss": 3.2 - 2.1 * factor,
                "perplexity": math.exp(3.2 - 2.1 * factor),
                "exact_match": 0.12 * factor,
                "rouge_l": 0.54 * factor,
            },
            "tables": [],
            "confusions": [],
        }

    mistakes = [
        _mistake(0.9, "can u send the report", "Could you please send me the report?", "The report is sent to you.")
    ]
    return SampleRun(RunFolder(path), _files("generate", path, scores, "rouge_l", labels=[], mistakes=mistakes))


def _files(
    task: str,
    path: Path,
    scores: Callable[[float], dict[str, Any]],
    metric: str,
    *,
    labels: Sequence[str],
    mistakes: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    before, after = scores(0.1), scores(1.0)
    return {
        "config.yaml": CONFIG.format(task=task),
        "plan.json": _plan(task, path, labels),
        "data_card.json": _card(labels),
        "environment.json": {
            "chainft": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "platform": "Linux-6.1-x86_64",
            "cpu": "2 cores",
            "memory_bytes": 8 * 2**30,
            "devices": ["cpu"],
        },
        "metrics.jsonl": _metrics(metric, after["values"]),
        "all_results.json": {
            "format": 1,
            "task": task,
            "run": path.name,
            "main_metric": metric,
            "best": {"step": 160, "epoch": 4.0, "value": after["values"][metric] * 1.01},
            "steps": STEPS,
            "epochs": 5.0,
            "stopped_early": False,
            "train_time_s": 432.1,
            "test": {"before": before, "after": after},
            "validation": scores(1.01),
        },
        "mistakes.jsonl": list(mistakes),
    }


def _metrics(metric: str, final: Mapping[str, float]) -> list[dict[str, Any]]:
    rng, lines = random.Random(3), []
    for step in range(1, STEPS + 1):
        done = step / STEPS
        lr = 3e-4 * min(step / 20, (STEPS - step) / (STEPS - 20))
        lines.append(
            {
                "kind": "train",
                "step": step,
                "epoch": step / STEPS_PER_EPOCH,
                "loss": 0.15 + 1.9 * math.exp(-5 * done) * rng.uniform(0.8, 1.2),
                "lr": max(lr, 0.0),
                "grad_norm": 0.4 + 2.5 * math.exp(-4 * done) * rng.uniform(0.6, 1.6),
                "examples_per_s": 52.0 + rng.uniform(-4, 4),
                "tokens_per_s": 2100.0,
                "memory_bytes": 1_300_000_000,
                "time_s": 2.1 * step,
            }
        )
        if step % STEPS_PER_EPOCH == 0:
            values = {
                "loss": 0.25 + 1.5 * math.exp(-5 * done) + (0.06 if step == STEPS else 0),
                metric: final[metric] * (1.01 - 0.5 * math.exp(-3.5 * done) - (0.02 if step == STEPS else 0)),
            }
            lines.append(
                {
                    "kind": "evaluation",
                    "split": "validation",
                    "step": step,
                    "epoch": step / STEPS_PER_EPOCH,
                    "values": values,
                }
            )
    return lines


def _plan(task: str, path: Path, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "task": task,
        "run": str(path),
        "model": {
            "path": "starter",
            "class": "BertForTokenClassification",
            "parameters": 22_716_681,
            "trainable": 22_716_681,
            "new": ["classifier.weight", "classifier.bias"],
            "max_length": 128,
        },
        "data": {
            "train": {"examples": 1250, "features": 1262, "tokens": 31877},
            "validation": {"examples": 250, "features": 250, "tokens": 6377},
            "test": {"examples": 250, "features": 251, "tokens": 6461},
            "labels": list(labels),
        },
        "batch_size": 32,
        "micro_batches_per_step": 1,
        "steps": STEPS,
        "from_step": 0,
        "steps_per_epoch": STEPS_PER_EPOCH,
        "epochs": 5.0,
        "optimizer": "adamw",
        "lr": 3e-4,
        "scheduler": "linear",
        "warmup_steps": 20,
        "mixed_precision": "no",
        "device": "cpu",
        "seed": 42,
        "estimated_time_s": 423.0,
    }


def _card(labels: Sequence[str]) -> dict[str, Any]:
    edges = list(range(0, 161, 10))
    shape = [3, 40, 120, 220, 260, 210, 150, 100, 60, 40, 20, 12, 8, 4, 2, 1]

    def split(scale: float) -> dict[str, Any]:
        counts = {label: max(1, round(scale * 1000 / (i + 1))) for i, label in enumerate(labels)}
        return {
            "examples": round(1250 * scale),
            "labels": counts,
            "lengths": {"edges": edges, "counts": [round(c * scale) for c in shape]},
            "max_length": 128,
        }

    return {
        "splits": {"train": split(1.0), "validation": split(0.2), "test": split(0.2)},
        "findings": [
            {
                "slug": "leakage",
                "severity": "warning",
                "message": "12 test examples are also in train",
                "where": "test.conll:118",
                "help": "remove them from train",
                "count": 12,
            },
            {
                "slug": "over-length",
                "severity": "info",
                "message": "15 examples have more than 128 tokens and are read in windows",
                "where": "train.conll:2210",
                "help": None,
                "count": 15,
            },
        ],
    }


def _confusion(num_classes: int, rng: random.Random, right: int, *, heavy: int | None = None) -> list[list[int]]:
    counts = [[0] * num_classes for _ in range(num_classes)]
    for row in range(num_classes):
        counts[row][row] = right * 20 if row == heavy else right - rng.randrange(6)
        for _ in range(3):
            counts[row][rng.randrange(num_classes)] += rng.randrange(1, 5)
    return counts


def _mistake(
    badness: float, text: str, gold: str, predicted: str, gold_marks: Any = (), predicted_marks: Any = ()
) -> dict[str, Any]:
    return {
        "badness": badness,
        "text": text,
        "gold": gold,
        "predicted": predicted,
        "gold_marks": list(gold_marks),
        "predicted_marks": list(predicted_marks),
    }


def _ner_mistakes() -> list[dict[str, Any]]:
    def mark(text: str, words: str, label: str) -> dict[str, Any]:
        start = text.index(words)
        return {"start": start, "end": start + len(words), "label": label}

    one = "The Bank of New York Mellon and Zoë Quinn sued Amazon in Paris, Texas, on Monday."
    two = "After Turkey beat Croatia, fans of Real Madrid sang in Lima 🎉 until dawn."
    return [
        _mistake(
            4.0,
            one,
            "4 entities",
            "5 entities",
            [
                mark(one, "Bank of New York Mellon", "ORG"),
                mark(one, "Zoë Quinn", "PER"),
                mark(one, "Amazon", "ORG"),
                mark(one, "Paris, Texas", "LOC"),
            ],
            [
                mark(one, "New York", "LOC"),
                mark(one, "Zoë Quinn", "PER"),
                mark(one, "Amazon", "LOC"),
                mark(one, "Paris", "LOC"),
                mark(one, "Monday", "MISC"),
            ],
        ),
        _mistake(
            2.0,
            two,
            "4 entities",
            "2 entities",
            [
                mark(two, "Turkey", "ORG"),
                mark(two, "Croatia", "ORG"),
                mark(two, "Real Madrid", "ORG"),
                mark(two, "Lima", "LOC"),
            ],
            [mark(two, "Turkey", "LOC"), mark(two, "Lima", "LOC")],
        ),
    ]

"""Whether two runs are the same, for tests of launching and of division."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from chainft.run_folder import RunFolder

Train = Callable[..., RunFolder]
SGD = ["optimizer=sgd", "optimizer.lr=0.3", "optimizer.options={momentum: 0.9}"]
"""Whose updates are as large as the gradients: Adam hides their scale."""


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
    for split in ("test", "validation"):
        assert (first[split] is None) == (second[split] is None)
    assert first["test"]["after"]["values"] == pytest.approx(second["test"]["after"]["values"], rel=10 * tolerance)
    if first["test"]["before"]:
        assert first["test"]["before"]["values"] == pytest.approx(second["test"]["before"]["values"], rel=1e-6)

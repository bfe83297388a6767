"""The way of batches to a GPU's kernel for rows of different length, with one on a CPU in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.nn import functional

from chainft.config.compose import compose
from chainft.stages import flash_rows
from chainft.train.session import run_training
from tests.clean_process import clean_process

Train = Callable[..., dict[str, Any]]
BF16 = "train.mixed_precision=bf16"


@pytest.fixture
def train(still_encoder: Path, ner_files: list[str], tmp_path: Path) -> Iterator[Train]:
    def run(*words: str, name: str) -> dict[str, Any]:
        settings = [f"model={still_encoder}", "train.batch_size=8", "train.max_steps=6", "optimizer.lr=0.005", BF16]
        settings += ["report.enabled=false", f"run={tmp_path / name}", *ner_files, "task=ner", "train.device=cpu"]
        kept = [one for one in settings if one.split("=")[0] not in {word.split("=")[0] for word in words}]
        AcceleratorState._reset_state(reset_partial_state=True)
        results = run_training(compose([*kept, *words]))
        lines = (tmp_path / name / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses = [one["loss"] for one in map(json.loads, lines) if one["kind"] == "train"]
        plan = json.loads((tmp_path / name / "plan.json").read_text(encoding="utf-8"))
        return {**results, "losses": losses, "plan": plan}

    with clean_process():
        yield run


class Kernel:
    """Attention row by row; counts its calls by whether all tokens attend."""

    def __init__(self) -> None:
        self.calls: list[bool] = []
        self.factor = 1.0
        self.fails = False

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        ends: Tensor,
        longest: int,
        *,
        query_ends: Tensor | None = None,
        most: int = 0,
        causal: bool,
        dropout_p: float = 0.0,
        scale: float | None = None,
    ) -> Tensor:
        assert query.dtype == key.dtype == value.dtype == torch.bfloat16
        self.calls.append(query_ends is None)
        if self.fails and torch.is_grad_enabled():
            raise RuntimeError("this kernel has no backward pass for such heads")
        times = query.shape[1] // key.shape[1]
        key, value = (one.repeat_interleave(times, dim=1) for one in (key, value))
        rows = []
        of_queries = ends if query_ends is None else query_ends
        for (first, last), (start, end) in zip(pairwise(of_queries.tolist()), pairwise(ends.tolist()), strict=True):
            assert end - start <= longest and (query_ends is None or last - first <= most)
            some = query[:, :, first:last]
            rows.append(
                functional.scaled_dot_product_attention(
                    some, key[:, :, start:end], value[:, :, start:end], is_causal=causal, scale=scale
                )
            )
        return torch.cat(rows, dim=2).transpose(1, 2) * self.factor


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    found = Kernel()
    monkeypatch.setattr(flash_rows, "attend", found.attend)
    monkeypatch.setattr(flash_rows, "is_available", lambda _: True)
    return found


def test_batches_go_through_the_kernel_to_the_same_losses(
    train: Train, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = train(name="kernel")
    assert found["plan"]["padding_free"] and found["plan"]["read_tokens_only"]
    # The trial, then steps and evaluations of two blocks, of which the second is computed for read tokens alone.
    assert len(kernel.calls) > 20 and True in kernel.calls and False in kernel.calls
    with monkeypatch.context() as patch:
        patch.setattr(flash_rows, "is_available", lambda _: False)
        count = len(kernel.calls)
        plain = train(name="groups")
        assert plain["plan"]["padding_free"] and len(kernel.calls) == count
    assert found["losses"] == pytest.approx(plain["losses"], rel=0.02)


def test_a_decoder_whose_queries_are_rotated_goes_through_it(
    train: Train, kernel: Kernel, tiny_decoder: Path, tmp_path: Path
) -> None:
    rows = [{"source": f"the {word} of", "target": word} for word in ("river", "city", "house", "man")] * 8
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["task=generate", "data=jsonl", f"model={tiny_decoder}", "evaluation.before_training=false"]
    words += [f"data.{split}={tmp_path / split}.jsonl" for split in ("train", "validation", "test")]
    found = train(*words, "task.max_new_tokens=4", name="kernel")
    assert found["plan"]["padding_free"] and kernel.calls
    count = len(kernel.calls)
    padded = train(*words, "task.max_new_tokens=4", "train.padding_free=false", name="padded")
    assert len(kernel.calls) == count
    assert found["losses"] == pytest.approx(padded["losses"], rel=0.02)


@pytest.mark.parametrize("how", ["wrong", "fails"])
def test_a_kernel_that_does_not_suit_the_model_is_left_alone(train: Train, kernel: Kernel, how: str) -> None:
    kernel.factor, kernel.fails = (0.0, False) if how == "wrong" else (1.0, True)
    found = train(name="auto")
    count = len(kernel.calls)
    assert 0 < count < 8
    assert not found["plan"]["padding_free"]
    asked = train("train.padding_free=true", name="asked")
    assert asked["plan"]["padding_free"] and len(kernel.calls) == 2 * count
    assert asked["losses"] == pytest.approx(found["losses"], rel=0.02)

"""Training on a GPU: kernels, compiled blocks and steps that run ahead give the numbers of the plain way.

Skipped where torch sees no GPU.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.nn import functional

from chainft.config.compose import compose
from chainft.errors import DivergedError
from chainft.models.fused_loss import DeferredLogits, linear_cross_entropy_sum
from chainft.stages import cuda_graphs, flash_rows
from chainft.stages.packed_layout import Layout
from chainft.train import learner
from chainft.train.launch import launch
from chainft.train.session import run_training
from tests.clean_process import clean_process

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
    pytest.mark.filterwarnings("ignore"),  # Of the compiler itself.
]

Train = Callable[..., dict[str, Any]]
BF16 = ["train.mixed_precision=bf16", "train.compile=false"]
COARSE = 0.03
"""Relative difference of losses in bfloat16."""


@pytest.fixture
def train(still_encoder: Path, ner_files: list[str], tmp_path: Path) -> Iterator[Train]:
    """Trains ten steps without dropout; returns losses and plan."""

    def run(*words: str, name: str = "run") -> dict[str, Any]:
        settings = [f"model={still_encoder}", "train.batch_size=8", "train.num_train_epochs=2", "optimizer.lr=0.005"]
        settings += ["report.enabled=false", f"run={tmp_path / name}", *ner_files, "task=ner", "train.device=cuda"]
        kept = [one for one in settings if one.split("=")[0] not in {word.split("=")[0] for word in words}]
        AcceleratorState._reset_state(reset_partial_state=True)
        results = run_training(compose([*kept, *words]))
        return {**results, **_read(tmp_path / name)}

    with clean_process():
        yield run


def _read(run: Path) -> dict[str, Any]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    losses = [one["loss"] for one in records if one["kind"] == "train"]
    return {"losses": losses, "plan": json.loads((run / "plan.json").read_text(encoding="utf-8"))}


def test_batches_end_to_end_have_the_losses_of_padded_ones(train: Train) -> None:
    packed, padded = train(*BF16, name="packed"), train(*BF16, "train.padding_free=false", name="padded")
    assert packed["plan"]["padding_free"] and not padded["plan"]["padding_free"]
    assert packed["losses"] == pytest.approx(padded["losses"], rel=COARSE)
    plain = train("train.device=cpu", name="cpu")
    assert packed["losses"] == pytest.approx(plain["losses"], rel=COARSE)


def test_float32_on_a_gpu_is_float32_on_a_cpu(train: Train) -> None:
    found, expected = train(name="gpu"), train("train.device=cpu", name="cpu")
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-3)


def test_compiled_blocks_have_the_losses_of_those_that_are_not(train: Train) -> None:
    plain = train(*BF16, name="plain")
    words = ["train.mixed_precision=bf16", "train.compile=true"]
    found = train(*words, name="compiled")
    assert found["plan"]["compiled"] and found["plan"]["padding_free"]
    assert found["losses"] == pytest.approx(plain["losses"], rel=COARSE)
    rounded = train(*words, "train.hidden_dtype=bfloat16", name="rounded")
    assert rounded["losses"] == pytest.approx(plain["losses"], rel=2 * COARSE)
    padded = train(*words, "train.padding_free=false", name="padded")
    assert padded["plan"]["compiled"] and padded["losses"] == pytest.approx(plain["losses"], rel=COARSE)


def _answers(decoder: Path, folder: Path) -> list[str]:
    rows = [{"source": f"the {word} of", "target": word} for word in ("river", "city", "house", "man")] * 8
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = ["task=generate", "data=jsonl", f"model={decoder}", "evaluation.before_training=false"]
    words += ["task.max_new_tokens=4"]
    return words + [f"data.{split}={folder / split}.jsonl" for split in ("train", "validation", "test")]


def test_a_compiled_decoder_learns_answers(train: Train, tiny_decoder: Path, tmp_path: Path) -> None:
    words = _answers(tiny_decoder, tmp_path)
    plain = train(*words, *BF16, name="plain")
    assert plain["plan"]["logits_in_loss"] and plain["plan"]["padding_free"]
    padded = train(*words, *BF16, "train.padding_free=false", name="padded")
    assert plain["losses"] == pytest.approx(padded["losses"], rel=COARSE)
    compiled = train(*words, "train.mixed_precision=bf16", "train.compile=true", name="compiled")
    assert compiled["losses"] == pytest.approx(plain["losses"], rel=COARSE)
    assert compiled["losses"][-1] < 0.9 * compiled["losses"][0]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[cuda_graphs.Graphs]:
    """The recordings of each training."""
    made: list[cuda_graphs.Graphs] = []
    init = cuda_graphs.Graphs.__init__

    def noted(self: cuda_graphs.Graphs, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(cuda_graphs.Graphs, "__init__", noted)
    return made


@pytest.mark.parametrize(
    "words",
    [
        ["train.compile=false"],
        ["train.compile=true", "train.hidden_dtype=bfloat16"],
        ["train.compile=false", "train.micro_batch_size=4"],
        ["train.compile=false", "chain.split=2", "chain.stages.stage1.lora={r: 4}", "chain.stages.stage0.frozen=true"],
    ],
)
def test_passes_that_are_played_have_the_losses_of_those_that_run(
    train: Train, played: list[cuda_graphs.Graphs], words: list[str]
) -> None:
    words = ["train.mixed_precision=bf16", *words]
    plain = train(*words, "train.cuda_graphs=false", name="plain")
    assert not plain["plan"]["cuda_graphs"] and not played
    found = train(*words, "train.cuda_graphs=true", name="played")
    assert found["plan"]["cuda_graphs"] and played[-1].num_recorded and not played[-1].is_off
    assert found["losses"] == pytest.approx(plain["losses"], rel=2 * COARSE)


def test_a_decoder_that_is_played_learns_answers(
    train: Train, played: list[cuda_graphs.Graphs], tiny_decoder: Path, tmp_path: Path
) -> None:
    words = [*_answers(tiny_decoder, tmp_path), *BF16]
    plain = train(*words, "train.cuda_graphs=false", name="plain")
    found = train(*words, "train.cuda_graphs=true", name="played")
    assert played[-1].num_recorded and not played[-1].is_off
    assert found["losses"] == pytest.approx(plain["losses"], rel=COARSE)


def test_dropout_is_drawn_anew_each_time_it_is_played(
    train: Train, played: list[cuda_graphs.Graphs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as of passes that run on the same slots; a mask that stays would show in every step."""
    words = ["train.mixed_precision=bf16", "train.compile=false", "chain.split=1", "chain.stages.stage0.dropout=0.3"]
    found = train(*words, name="played")
    assert played[-1].num_recorded
    with monkeypatch.context() as patch:
        patch.setattr(cuda_graphs, "MOST", 0)
        plain = train(*words, name="plain")
    assert not played[-1].num_recorded
    assert found["losses"] == pytest.approx(plain["losses"], rel=COARSE)


def test_blocks_that_cannot_be_recorded_run_as_they_are(
    train: Train,
    played: list[cuda_graphs.Graphs],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = ["train.mixed_precision=bf16", "train.compile=false", "chain.split=1", "chain.stages.stage0.dropout=0.1"]
    attend = flash_rows.attend

    def waits(*arguments: Any, **options: Any) -> Tensor:
        found = attend(*arguments, **options)
        float(found.sum())
        return found

    monkeypatch.setattr(flash_rows, "attend", waits)
    with caplog.at_level(logging.WARNING):
        found = train(*words, name="waits")
    assert played[-1].is_off and not played[-1].num_recorded and "without CUDA graphs" in caplog.text
    assert len(found["losses"]) > 4 and None not in found["losses"]


@pytest.fixture
def leading(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each learner that was made runs ahead."""
    made: list[bool] = []
    find = learner.is_leading

    def noted(*arguments: Any) -> bool:
        made.append(find(*arguments))
        return made[-1]

    monkeypatch.setattr(learner, "is_leading", noted)
    return made


def test_steps_that_run_ahead_change_no_number(
    train: Train, leading: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train.padding_free=false", "checkpoint.every=3", "evaluation.every=4"]
    found = train(*words, name="ahead")
    assert leading == [True]
    monkeypatch.setattr(learner, "is_leading", lambda *_: False)
    assert found["losses"] == pytest.approx(train(*words, name="waiting")["losses"], rel=1e-5)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_a_step_that_is_not_finite_is_left_out(
    train: Train, leading: list[bool], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """By the device where steps run ahead, as by the loop where they do not; also where it is the first one."""
    monkeypatch.setenv("CHAINFT_TESTING", "1")
    words = ["optimizer.weight_decay=0.1", "evaluation.every=100", f"optimizer.name={name}"]
    words += ["optimizer.options={momentum: 0.9}"] if name == "sgd" else []
    for bad in (1, 4):
        monkeypatch.setenv("CHAINFT_FAULT", f"nan@step={bad},phase=loss")
        with pytest.raises(DivergedError):
            train(*words, name=f"stops-{bad}")
        found = train(*words, "train.max_nonfinite_steps=1", name=f"ahead-{bad}")
        with monkeypatch.context() as patch:
            patch.setattr(learner, "is_leading", lambda *_: False)
            waiting = train(*words, "train.max_nonfinite_steps=1", name=f"waiting-{bad}")
        assert found["losses"][bad - 1] is None and None not in found["losses"][bad:]
        kept = [loss for loss in found["losses"] if loss is not None]
        assert kept == pytest.approx([loss for loss in waiting["losses"] if loss is not None], rel=1e-4)
    assert set(leading) == {name != "sgd"}


def test_a_broken_run_goes_on_with_the_same_losses(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train("checkpoint.every=3", name="whole")
    begin = learner.Learner.begin

    def broken(self: learner.Learner, step: int) -> Any:
        if step == 8:
            raise KeyboardInterrupt
        return begin(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(learner.Learner, "begin", broken)
        with pytest.raises(KeyboardInterrupt):
            train("checkpoint.every=3")
    again = train("resume=true")
    assert again["plan"]["from_step"] == 6 and again["losses"] == pytest.approx(whole["losses"], rel=1e-4)


def test_a_process_of_the_launcher_computes_on_the_gpu(
    train: Train, still_encoder: Path, ner_files: list[str], tmp_path: Path
) -> None:
    words = ["task=ner", f"model={still_encoder}", "train.batch_size=8", "train.num_train_epochs=2"]
    words += ["optimizer.lr=0.005", "report.enabled=false", *ner_files, "train.device=cuda", "launch.num_processes=1"]
    launch(compose([*words, f"run={tmp_path / 'launched'}"]))
    assert _read(tmp_path / "launched")["losses"] == pytest.approx(train(name="alone")["losses"], rel=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_kernel_attends_within_rows(causal: bool, kv_heads: int) -> None:
    layout, (query, key, value) = _made_up(kv_heads)
    found = flash_rows.attend(query, key, value, layout.ends, layout.longest, causal=causal)
    assert torch.allclose(found.float(), _row_by_row(layout, query, key, value, causal), atol=0.02)


def test_the_kernel_attends_for_read_tokens_alone() -> None:
    layout, (query, key, value) = _made_up(4)
    ends, most = layout.read_ends
    chosen = query.index_select(2, layout.read_places)
    found = flash_rows.attend(
        chosen, key, value, layout.ends, layout.longest, query_ends=ends, most=most, causal=False
    )
    expected = _row_by_row(layout, query, key, value, causal=False)[:, layout.read_places]
    assert torch.allclose(found.float(), expected, atol=0.02)


def _made_up(kv_heads: int) -> tuple[Layout, tuple[Tensor, ...]]:
    lengths = np.array([9, 3, 17, 1])
    read = np.zeros((4, 17), bool)
    read[[0, 0, 2, 3], [0, 5, 16, 0]] = True
    torch.manual_seed(0)
    total = int(lengths.sum())
    tensors = (
        torch.randn(1, total, heads, 16, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        for heads in (4, kv_heads, kv_heads)
    )
    return Layout(lengths, torch.device("cuda"), read), tuple(tensors)


def _row_by_row(layout: Layout, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """(1, T, H, W) float32."""
    times = query.shape[1] // key.shape[1]
    wide = [query.float(), *(one.float().repeat_interleave(times, dim=1) for one in (key, value))]
    starts = layout.ends.tolist()
    rows = [
        functional.scaled_dot_product_attention(*(one[:, :, start:end] for one in wide), is_causal=causal)
        for start, end in pairwise(starts)
    ]
    return torch.cat(rows, dim=2).transpose(1, 2)


def test_the_loss_from_hidden_states_is_that_of_logits() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(50, 16, device="cuda", requires_grad=True)
    weight = torch.randn(300, 16, device="cuda", requires_grad=True)
    labels = torch.randint(0, 300, (50,), device="cuda")
    labels[::7] = -100
    expected = functional.cross_entropy(hidden @ weight.T, labels, reduction="sum")
    gradients = torch.autograd.grad(expected, (hidden, weight))
    found = linear_cross_entropy_sum(DeferredLogits(hidden, weight, chunk=1000), labels)
    assert torch.allclose(found, expected, rtol=1e-4)
    for one, other in zip(torch.autograd.grad(found, (hidden, weight)), gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-3)

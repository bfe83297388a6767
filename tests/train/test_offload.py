"""A model whose stages stream in and out learns what the whole one learns."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chainft.config.compose import compose
from chainft.config.saved import compose_resumed
from chainft.errors import ConfigError, Stopped, StorageError
from chainft.run_folder import RunFolder
from chainft.stages.blocks import find_blocks
from chainft.stages.spans import Span
from chainft.train.offload import Offload
from chainft.train.offload_stages import offload_spans
from chainft.train.resting import OnDisk, portions
from chainft.train.session import run_training
from tests.train.pipeline_case import (
    Case,
    Outcome,
    Seen,
    Targets,
    assert_equal,
    batches_of,
    model_of,
    optimizer_of,
    seed,
    single,
    unfreeze,
)
from tests.train.same_runs import assert_same_runs

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


CASES = [
    (Case("bert:classify", blocks=4, dropout=0.2), 1),
    (Case("llama:causal", blocks=4, tied=True), 1),
    (Case("t5:seq2seq", blocks=4, dropout=0.2), 1),
    (Case("t5:seq2seq", blocks=4), 3),
    (Case("t5:seq2seq", blocks=4, frozen=("encoder.", "shared")), 1),
    (Case("bert:classify", blocks=4, frozen=("embeddings", "layer.0.", "layer.1.")), 1),
    (Case("llama:causal", blocks=4, frozen=("model.",), tied=False), 2),
    (Case("llama:causal", blocks=4, frozen=("layers.0.", "embed"), unfrozen_at=1), 2),
    (Case("llama:causal", blocks=4, lora=True), 1),
    (Case("llama:causal", repeats=True), 1),
    (Case("deberta-v2:classify", blocks=4, dropout=0.2), 1),
    (Case("albert:classify", blocks=4), 1),
    (Case("bert:classify", blocks=4, recomputed=True), 4),
    (Case("llama:causal", blocks=4, bf16=True), 2),
]


def offloaded(case: Case, size: int, folder: Path | None, steps: int = 3) -> Outcome:
    """Training with stages of `size` blocks that rest in files in `folder`."""
    model, task = model_of(case), Targets(case.model.split(":")[1])
    blocks: Any = find_blocks(model)
    chain: Any = SimpleNamespace(spans={"model": Span(0, blocks.num_blocks, embeddings=True, head=True)})
    spans = offload_spans(chain, blocks, size)
    device = torch.device("cpu")
    offload = Offload(model, task, spans, folder=folder, device=device, autocast=case.autocast)  # type: ignore[arg-type]
    assert len(offload.spans) >= blocks.num_blocks / size
    optimizer = optimizer_of(list(model.parameters()))
    losses, norms, gradients = [], [], {}
    for step in range(steps):
        unfreeze(model, case, step)
        batches = batches_of(case, step)
        losses.append(offload.gradient(batches, sum(map(task.num_targets, batches)), seed=partial(seed, step)))
        norms.append(offload.clip(None))
        if step == 0:
            named = {one: name for name, one in model.named_parameters()}
            gradients = {named[one]: offload.gradients[one].numpy().copy() for one in offload.received}
        offload.step(optimizer)
        assert all(one.grad is None and one.untyped_storage().nbytes() == 4 for one in model.parameters())
    model.eval()
    with torch.inference_mode():
        logits = offload.infer(batches_of(case, 7)[0]).logits.float().numpy()
    offload.dissolve()
    parameters = {name: one.detach().numpy() for name, one in model.named_parameters()}
    return Outcome(losses, norms, gradients, parameters, logits, Seen(tuple(parameters), {}))


@pytest.mark.parametrize(("case", "size"), CASES, ids=str)
def test_stages_that_stream_train_as_the_whole_model(case: Case, size: int, tmp_path: Path) -> None:
    if case.lora:
        pytest.importorskip("peft")
    assert_equal([offloaded(case, size, tmp_path)], single(case), **_TOLERANCES.get(case.bf16, {}))
    assert not any(tmp_path.iterdir())


_TOLERANCES = {True: {"gradient": 2e-2, "parameter": 3e-3}}


def test_stages_that_rest_in_memory_do_so_too() -> None:
    case = Case("t5:seq2seq", blocks=4, dropout=0.2)
    assert_equal([offloaded(case, 1, None)], single(case))


FROZEN = ["chain.split=2", "chain.stages.stage0.frozen=true", "chain.stages.stage0.eval_mode=true"]


@pytest.mark.parametrize(
    "words",
    [
        ["train.micro_batch_size=2", "train.max_grad_norm=0.1", *SGD],
        [*FROZEN, "optimizer=adafactor"],
        ["chain.split=2", "chain.stages.stage1.lora={r: 2}", "evaluation.before_training=false"],
    ],
)
def test_an_offloaded_run_gives_the_numbers_of_a_plain_one(train: Train, words: list[str]) -> None:
    if any("lora" in word for word in words):
        pytest.importorskip("peft")
    offload = train(*words, "launch.offload=disk", name="offload")
    assert json.loads(offload.plan.read_text())["offload"] == {"rests_in": "disk", "stages": [[0], [1]]}
    assert_same_runs(train(*words, name="plain"), offload)


def test_frozen_stages_whose_outputs_are_kept_are_not_loaded(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train(*FROZEN, name="plain")
    loaded = set()
    load = Offload.loaded

    def noting(self: Offload, number: int, *, then: int | None) -> Any:
        loaded.add(number)
        return load(self, number, then=then)

    monkeypatch.setattr(Offload, "loaded", noting)
    assert_same_runs(plain, train(*FROZEN, "launch.offload=disk", name="offload"))
    assert json.loads((plain.path / "plan.json").read_text())["prefix_cache"]["used"]
    assert loaded == {1}
    train(*FROZEN, "launch.offload=disk", "cache.prefix=false", "train.max_steps=1", name="other")
    assert loaded == {0, 1}


def test_a_run_goes_on_with_and_without_offload(train: Train, tmp_path: Path) -> None:
    whole = train(name="whole")
    ways = ["launch.offload=disk", "launch.offload=none", "launch.offload=disk"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHAINFT_TESTING", "1")
        for number, way in enumerate(ways):
            last = number == len(ways) - 1
            patch.setenv("CHAINFT_FAULT", "" if last else f"term@step={4 * number + 3},phase=forward,count=1")
            with nullcontext() if last else pytest.raises(Stopped):
                if number:
                    run_training(compose_resumed(str(tmp_path / "parts"), [way]))
                else:
                    train(way, name="parts")
    assert_same_runs(whole, RunFolder(tmp_path / "parts"))


def test_texts_are_written_as_by_the_whole_model(train: Train, tiny_decoder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{one} met", "response": f"{one} in oslo"} for one in ("anna", "ben", "emil")]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    words = [f"model={tiny_decoder}", "task=generate", "data=jsonl", f"data.train={data}", f"data.test={data}", *SGD]
    words += ["data.validation=null", "task.max_new_tokens=4", "train.max_steps=3"]
    runs = [train(*words, *more, name=f"run{len(more)}") for more in ([], ["launch.offload=disk"])]
    assert_same_runs(*runs)
    texts = [(one.predictions / "test.jsonl").read_text() for one in runs]
    assert texts[0] == texts[1]


def test_memory_that_is_lacking_makes_micro_batches_smaller(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = train("train.micro_batch_size=3", "train.max_steps=3", name="plain")
    monkeypatch.setenv("CHAINFT_TESTING", "1")
    monkeypatch.setenv("CHAINFT_FAULT", "oom@step=1,phase=forward,count=1")
    assert_same_runs(plain, train("launch.offload=disk", "train.max_steps=3", name="offload"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["launch.offload=disk", "launch.num_processes=2"],
            "launch.num_processes = 2 does not go with launch.offload",
        ),
        (["launch.offload=cpu", "train.device=cpu"], "train.device = 'cpu' does not go with launch.offload"),
        (["launch.offload=cpu"], "launch.offload='cpu' has no effect: the run computes on cpu"),
        (["launch.offload=disk", "train.mixed_precision=fp16"], "train.mixed_precision = 'fp16' does not go"),
        (["launch.offload_dir=/tmp"], "launch.offload_dir = '/tmp' has no effect"),
        (["launch.blocks_per_stage=2"], "launch.blocks_per_stage = 2 has no effect"),
        (["launch.offload=disk", "train.padding_free=true"], "train.padding_free = true is not possible"),
    ],
)
def test_what_cannot_be_offloaded_is_refused(train: Train, words: list[str], told: str) -> None:
    if torch.cuda.is_available() and words == ["launch.offload=cpu"]:
        pytest.skip("on this machine it can be")
    with pytest.raises(ConfigError, match=re.escape(told)):
        train(*words, name="run")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left on device"):
        OnDisk(tmp_path).empty_like(torch.zeros(3))


@given(st.lists(st.integers(0, 50), max_size=20))
def test_portions_are_no_larger_than_the_largest_tensor(sizes: list[int]) -> None:
    found = portions([torch.zeros(size) for size in sizes])
    assert [number for numbers in found for number in numbers] == list(range(len(sizes)))
    assert all(sum(sizes[number] for number in numbers) <= max(sizes) for numbers in found)

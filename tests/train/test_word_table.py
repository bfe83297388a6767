"""Training the rows of words that occur is training the whole table."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from chainft.config.run import DataConfig, OptimizerConfig, RunConfig, TaskConfig
from chainft.stages.chain import build_chain
from chainft.train import word_table
from chainft.train.optimizer import build_optimizer
from chainft.train.optimizer_state import pack_optimizer, restore_optimizer
from chainft.train.word_table import stand_ins, word_tables
from tests.conftest import Chainft
from tests.stages.architectures import tiny_model

SEEN = [0, 3, 5, 9, 17, 31]


class Run:
    """A tiny model that is trained on a few words, with its word table apart or not."""

    def __init__(self, optimizer: OptimizerConfig, *, apart: bool, case: str = "bert:tokens") -> None:
        self.model = tiny_model(case).train()
        config = RunConfig(task=TaskConfig(name="ner"), data=DataConfig(name="conll"), optimizer=optimizer)
        self.chain = build_chain(self.model, config)
        self.tables = word_tables(self.model, self.chain, optimizer, [np.array(SEEN)]) if apart else []
        self.optimizer = build_optimizer(self.model, optimizer, self.chain, stand_ins(self.tables))

    def step(self, number: int) -> None:
        chosen = np.random.default_rng(number).choice(SEEN, (3, 7))
        loss = self.model(input_ids=torch.from_numpy(chosen)).logits.float().square().mean()
        loss.backward()
        self.optimizer.step()
        for table in self.tables:
            group = self.optimizer.param_groups[0]
            table.decay(1 - group["lr"] * group["weight_decay"])
        self.optimizer.zero_grad()

    def weight(self) -> torch.Tensor:
        state: dict[str, torch.Tensor] = self.model.state_dict()
        return state["bert.embeddings.word_embeddings.weight"]


@pytest.mark.parametrize(
    "config",
    [
        OptimizerConfig(name="adamw", lr=0.05, weight_decay=0.1),
        OptimizerConfig(name="lion", lr=0.01, weight_decay=0.1),
        OptimizerConfig(name="sgd", lr=0.02, weight_decay=0, options={"momentum": 0.9}),
        OptimizerConfig(name="rmsprop", lr=0.01, weight_decay=0),
    ],
)
def test_rows_apart_learn_what_the_whole_table_learns(config: OptimizerConfig) -> None:
    whole, apart = Run(config, apart=False), Run(config, apart=True)
    assert len(apart.tables) == 1 and len(apart.tables[0].rows) == len(SEEN)
    for number in range(6):
        whole.step(number)
        apart.step(number)
        torch.testing.assert_close(apart.weight(), whole.weight(), rtol=1e-6, atol=1e-8)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(apart.model.state_dict()[name], value, rtol=1e-6, atol=1e-7, msg=name)
    if config.weight_decay:
        other = next(number for number in range(60) if number not in SEEN)
        assert not torch.equal(
            apart.weight()[other],
            tiny_model("bert:tokens").state_dict()["bert.embeddings.word_embeddings.weight"][other],
        )


def test_decay_waits_for_a_reader_without_changing_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_table, "_IN_CACHE", 100)  # Several parts of a few rows.
    config = OptimizerConfig(lr=0.05, weight_decay=0.1)
    read, waiting, whole = Run(config, apart=True), Run(config, apart=True), Run(config, apart=False)
    for number in range(7):
        for run in (read, waiting, whole):
            run.step(number)
        read.weight()
    assert torch.equal(read.weight(), waiting.weight())
    others = [number for number in range(read.weight().shape[0]) if number not in SEEN]
    assert torch.equal(waiting.weight()[others], whole.weight()[others])


def test_what_waits_is_dropped_where_weights_are_loaded() -> None:
    one = Run(OptimizerConfig(lr=0.05, weight_decay=0.1), apart=True)
    saved = {name: value.clone() for name, value in one.model.state_dict().items()}
    one.step(0)
    one.model.load_state_dict(saved)
    assert torch.equal(one.weight(), saved["bert.embeddings.word_embeddings.weight"])


def test_a_device_can_leave_a_decay_out() -> None:
    one = Run(OptimizerConfig(lr=0.05), apart=True)
    before = one.weight().clone()
    one.tables[0].decay(0.5, unless=torch.ones(()))
    assert torch.equal(one.weight(), before)
    one.tables[0].decay(0.5, unless=torch.zeros(()))
    others = [number for number in range(len(before)) if number not in SEEN]
    assert torch.equal(one.weight()[others], before[others] * 0.5)


def test_evaluation_sees_every_word_as_it_is_now() -> None:
    one = Run(OptimizerConfig(lr=0.05), apart=True)
    one.step(0)
    one.model.train(False)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        found = one.model(input_ids=ids).logits
        one.tables[0].dissolve()
        assert torch.equal(one.model(input_ids=ids).logits, found)
    assert one.model.get_input_embeddings().weight.requires_grad


def test_loaded_weights_reach_the_rows() -> None:
    one, other = Run(OptimizerConfig(lr=0.05), apart=True), Run(OptimizerConfig(lr=0.05), apart=True)
    one.step(0)
    saved = {name: value.clone() for name, value in one.model.state_dict().items()}
    other.model.load_state_dict(saved)
    assert torch.equal(other.tables[0].rows, one.tables[0].rows)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("after", [True, False])
def test_the_state_goes_on_with_or_without_a_table(before: bool, after: bool) -> None:
    config = OptimizerConfig(lr=0.05, weight_decay=0.1)
    unbroken, first, second = (Run(config, apart=apart) for apart in (False, before, after))
    for number in range(3):
        unbroken.step(number)
        first.step(number)
    tensors, json = pack_optimizer(first.optimizer, first.model, first.tables)
    second.model.load_state_dict({name: value.clone() for name, value in first.model.state_dict().items()})
    kept = {name: value.clone() for name, value in tensors.items()}
    restore_optimizer(second.optimizer, second.model, kept, json, second.tables)
    for number in range(3, 6):
        unbroken.step(number)
        second.step(number)
    torch.testing.assert_close(second.weight(), unbroken.weight(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("config", "case"),
    [
        (OptimizerConfig(name="sgd", weight_decay=0.1), "bert:tokens"),
        (OptimizerConfig(name="adafactor", weight_decay=0), "bert:tokens"),
        (OptimizerConfig(), "gpt2:causal"),
        (OptimizerConfig(), "t5:seq2seq"),
        (OptimizerConfig(), "bart:seq2seq"),
    ],
)
def test_where_other_rows_change_too_the_whole_table_is_trained(config: OptimizerConfig, case: str) -> None:
    """Coupled decay and Adafactor move rows without gradient; a tied head gives every row one."""
    assert Run(config, apart=True, case=case).tables == []


def test_a_frozen_table_stays_frozen() -> None:
    model = tiny_model("bert:tokens")
    config = RunConfig(task=TaskConfig(name="ner"), data=DataConfig(name="conll"))
    chain = build_chain(model, config)
    model.get_input_embeddings().weight.requires_grad_(False)
    assert word_tables(model, chain, config.optimizer, [np.array(SEEN)]) == []


def test_words_of_earlier_data_go_on_bit_for_bit(
    chainft: Chainft, tiny_encoder: Path, ner_files: list[str], tmp_path: Path
) -> None:
    """Of words that the changed data do not have the optimizer still has state, also after one more interruption."""
    texts = Path(ner_files[1].partition("=")[2]).read_text(encoding="utf-8")
    (tmp_path / "train.conll").write_text(texts, encoding="utf-8")
    words = ["task=ner", "data=conll", f"data.train={tmp_path}/train.conll", f"model={tiny_encoder}"]
    words += ["train.batch_size=8", "train.max_steps=7", "checkpoint.every=1", "report.enabled=false"]
    words += ["data.validation_fraction=0", "optimizer.lr=0.01"]

    def killed_at(step: int) -> dict[str, str]:
        return {"CHAINFT_TESTING": "1", "CHAINFT_FAULT": f"kill@step={step},phase=backward"}

    assert chainft("train", *words, "run=once", env=killed_at(4)).returncode == -9
    (tmp_path / "train.conll").write_text(texts.replace("anna", "paris"), encoding="utf-8")
    shutil.copytree(tmp_path / "once", tmp_path / "twice", symlinks=True)
    accepted = ["resume=true", "allow_data_change=true"]
    assert chainft("train", "run=once", *accepted).returncode == 0
    done = chainft("train", "run=twice", *accepted, env=killed_at(6))
    assert done.returncode == -9, done.stderr
    assert chainft("train", "run=twice", "resume=true").returncode == 0
    once, twice = ((tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("once", "twice"))
    assert once == twice

"""`chainft check chain`: its table, its exit codes, and that it can fail."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chainft.cli.check import run
from chainft.config.compose import compose
from chainft.stages.links import LinkedModel
from chainft.stages.spans import Span
from chainft.train import chain_check
from chainft.train.chain_check import check_chain

Chainft = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def words(tiny_encoder: Path, ner_files: list[str]) -> list[str]:
    return ["task=ner", f"model={tiny_encoder}", *ner_files, "chain.split=2"]


def test_a_sound_chain_passes_with_no_difference(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chain", *words, "chain.stages.stage0.frozen=true", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["found"] for one in found["checks"][:4]] == ["0 (exact)"] * 4
    assert [stage["trainable"] for stage in found["stages"]] == [0, found["stages"][1]["parameters"]]


def test_the_table_names_stages_and_checks(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chain", *words, "chain.stages.stage1.share.with=stage0"]) == 0
    shown = capsys.readouterr().out
    assert "shares with stage0" in shown
    assert "16 tensors have several names" in shown
    assert "FAILED" not in shown


def test_a_stage_that_computes_something_else_fails(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(gates: Any, spans: Any, inputs: Any, loss: Any) -> Any:
        once_more = [Span(0, 2, embeddings=True, head=False), Span(0, 2, embeddings=False, head=True)]
        return real(gates, once_more, inputs, loss)

    real = chain_check.compare
    monkeypatch.setattr(chain_check, "compare", wrong)
    _, checks = check_chain(compose(words).config, progress=lambda *_: None)
    assert not checks[0].passed
    assert run(["chain", *words]) == 4


@pytest.fixture
def cascade(tiny_encoder: Path, ner_files: list[str]) -> list[str]:
    """Message passing, a mix over both stages before, a connector, an auxiliary head and an exit."""
    links = ["chain.stages.second.connector=linear", "chain.stages.third.receive=all"]
    head = ["chain.stages.first.auxiliary.weight=0.5", "chain.exit_confidence=0.6"]
    return ["task=ner", f"model={tiny_encoder}", *ner_files, "chain=cascade", *links, *head]


def test_linked_models_one_by_one_compute_what_they_compute_as_one(
    cascade: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["chain", *cascade, "chain.stages.second.frozen=true", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["found"] for one in found["checks"][:5]] == ["0 (exact)"] * 4 + ["none"]
    assert [stage["trainable"] > 0 for stage in found["stages"]] == [True, False, True]


def test_stages_that_replace_their_embeddings_never_train_them(
    tiny_encoder: Path, ner_files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    stages = ["chain.order=[one,two]", *(f"chain.stages.{name}.model={tiny_encoder}" for name in ("one", "two"))]
    assert run(["chain", "task=ner", f"model={tiny_encoder}", *ner_files, *stages, "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)["stages"]
    assert one["trainable"] == one["parameters"]
    assert one["parameters"] - two["trainable"] == sum_of_embeddings(tiny_encoder) - (32 * 7 + 7)  # Its head.


def sum_of_embeddings(folder: Path) -> int:
    from transformers import AutoModel

    return sum(one.numel() for one in AutoModel.from_pretrained(folder).embeddings.parameters())


def test_shared_linked_stages_differ_by_no_more_than_the_order_of_a_sum(
    cascade: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["chain", *cascade, "chain.stages.second.share.with=first", "--json"]) == 0
    checks = {one["what"]: one["found"] for one in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["gradients: largest relative difference"] == "0 (exact)"
    assert checks["shared parameters are one tensor"] == "32 tensors have several names"


def test_a_connector_that_treats_detached_states_otherwise_fails(
    cascade: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: LinkedModel, name: str, source: str, hidden: Tensor) -> Tensor:
        return real(model, name, source, hidden * 1.001 if hidden.is_leaf else hidden)

    real = LinkedModel._connect
    monkeypatch.setattr(LinkedModel, "_connect", wrong)
    assert run(["chain", *cascade]) == 4


def test_a_broken_tie_of_linked_models_fails(cascade: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(*args: Any) -> Any:
        prepared = real(*args)
        name = next(iter(prepared.loaded.model.config.ties))
        module, _, leaf = name.rpartition(".")
        value = prepared.loaded.model.get_parameter(name).detach().clone()
        setattr(prepared.loaded.model.get_submodule(module), leaf, torch.nn.Parameter(value))
        return prepared

    real = chain_check.Prepared
    monkeypatch.setattr("chainft.train.prepare.Prepared", breaking)
    words = [*cascade, "chain.stages.second.share.with=first"]
    _, checks = check_chain(compose(words).config, progress=lambda *_: None)
    assert [one.what for one in checks if not one.passed] == ["shared parameters are one tensor"]
    assert run(["chain", *words]) == 4


def test_without_a_chain_there_is_nothing_to_check(chainft: Chainft) -> None:
    done = chainft("check", "chain", "task=ner")
    assert done.returncode == 2
    assert "chain.split=3" in done.stderr


def test_a_flag_for_data_is_refused(chainft: Chainft) -> None:
    done = chainft("check", "chain", "task=ner", "chain.split=2", "--no-tokenizer")
    assert done.returncode == 2
    assert "no effect" in done.stderr

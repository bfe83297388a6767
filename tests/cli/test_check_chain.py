"""`chainft check chain`: its table, its exit codes, and that it can fail."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chainft.cli.check import run
from chainft.config.compose import compose
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


def test_without_a_chain_there_is_nothing_to_check(chainft: Chainft) -> None:
    done = chainft("check", "chain", "task=ner")
    assert done.returncode == 2
    assert "chain.split=3" in done.stderr


def test_a_flag_for_data_is_refused(chainft: Chainft) -> None:
    done = chainft("check", "chain", "task=ner", "chain.split=2", "--no-tokenizer")
    assert done.returncode == 2
    assert "no effect" in done.stderr

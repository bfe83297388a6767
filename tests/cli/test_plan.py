"""`chainft plan` as a command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chainft.cli.plan import run
from chainft.errors import ConfigError


@pytest.fixture
def words(tiny_encoder: Path) -> list[str]:
    return ["task=ner", f"model={tiny_encoder}", "chain.split=2", "train.batch_size=4", "--length=32"]


def test_json_has_stages_total_peak_and_verdict(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--json", "--memory", "1GiB"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in plan["stages"]] == ["stage0", "stage1"]
    assert set(plan["stages"][0]["memory"]) == {"weights", "gradients", "optimizer", "activations"}
    assert plan["total"]["num_parameters"] == sum(stage["num_parameters"] for stage in plan["stages"])
    assert plan["peak"]["total"] >= plan["total"]["memory"]["weights"] + plan["total"]["memory"]["optimizer"]
    assert (plan["batch_size"], plan["length"], plan["memory"], plan["fits"]) == (4, 32, 2**30, True)


def test_exit_code_says_that_it_does_not_fit(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--memory", "100KiB"]) == 2
    assert "does not fit" in capsys.readouterr().out


def test_mermaid_is_printed_alone(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "--mermaid"]) == 0
    assert capsys.readouterr().out.startswith("flowchart LR\n    s0[")


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--memory", "much"], "expected a size"),
        (["--memory", "8XB"], "expected a size"),
        (["--length", "0"], "whole number"),
        (["--num-labels", "two"], "whole number"),
        (["--json", "--mermaid"], "exclude each other"),
    ],
)
def test_a_wrong_flag_is_refused(words: list[str], flags: list[str], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        run([*words, *flags])


def test_linked_models_are_planned(tiny_encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["task=ner", f"model={tiny_encoder}", "chain=cascade", "--length=32", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(stage["name"], stage["sources"]) for stage in plan["stages"]] == [
        ("first", []),
        ("second", ["first"]),
        ("third", ["second"]),
    ]

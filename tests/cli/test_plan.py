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
        (["--mermaid", "launch.num_processes=2"], "draws the stages of one process"),
        (["--memory", "1GiB", "plan.memory_gib=2"], "plan.memory_gib = 2 exclude each other"),
        (["launch.num_processes=auto"], "counts the GPUs"),
        (["plan.machine=abacus"], "plan.machine"),
        (["launch.num_processes=2", "plan.between_latency_s=1"], "has no effect: there is one machine"),
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


def test_a_run_on_many_devices_is_told_rank_by_rank(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "launch.num_processes=4", "launch.pipeline=2", "plan.devices_per_machine=2"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "Machine h100 (plan.*): 4 devices in 2 machines, 67 TFLOP/s at peak, of which 40% are attained",
        "Divided: pipeline of 2 places (1f1b), 2 copies, 2 micro-batches of 1 row in each copy and update.",
        "waiting (bubble)",
        "tokens/s",
        "fits: most memory:",
        "ranks 0-1",
        "gradients of hidden states between",
    ):
        assert part in text
    assert "Peak:" not in text


def test_json_has_the_ranks_and_a_change_that_fits(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    given = [*words, "launch.num_processes=2", "launch.fsdp=true", "--json"]
    assert run(given) == 0
    scale = json.loads(capsys.readouterr().out)["scale"]
    assert (scale["num_copies"], scale["num_places"], scale["fits"]) == (2, 1, True)
    total = scale["places"][0]["memory"]["total"]
    assert run([*given, "--memory", f"{total - 1}B"]) == 2
    small = json.loads(capsys.readouterr().out)["scale"]
    assert small["fits"] is False
    assert small["nearest_change"] == ["train.micro_batch_size=1"]


def test_one_process_on_a_certain_machine_has_a_time(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*words, "plan.machine=measured", "train.device=cpu", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["scale"]["places"][0]["memory"]["total"] == plan["peak"]["total"]
    flops = plan["total"]["flops_forward"] + plan["total"]["flops_backward"]
    machine = plan["scale"]["machine"]
    assert machine["flops_per_s"] > 1e8
    assert plan["scale"]["passes_s"] == pytest.approx(flops / machine["flops_per_s"] / machine["attained_fraction"])

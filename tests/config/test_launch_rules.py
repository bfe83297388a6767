"""What the settings of processes and machines may not say, before there is a model."""

from __future__ import annotations

from typing import Any

import pytest

from chainft.config.rules import parse_run
from chainft.errors import ConfigError


def problems(**launch: Any) -> dict[str | None, str]:
    """Key -> what is refused."""
    try:
        parse_run({"task": {"name": "ner"}, "data": {"name": "conll", "train": "x"}, "launch": launch})
    except ConfigError as error:
        return {problem.key: problem.message for problem in error.problems}
    return {}


@pytest.mark.parametrize(
    "launch",
    [
        {},
        {"num_processes": "auto"},
        {"num_processes": 4, "pipeline": 2, "schedule": "zbv"},
        {"num_processes": 4, "fsdp": True, "cpu_offload": True, "reshard_after_forward": False, "max_restarts": 2},
        {"offload": "disk", "offload_dir": "folder", "blocks_per_stage": 3},
        {"offload": "cpu"},
        {"num_processes": 4, "num_machines": 2, "machine_rank": 1, "main_process_ip": "10.0.0.1"},
    ],
)
def test_what_fits_is_taken(launch: dict[str, Any]) -> None:
    assert problems(**launch) == {}


@pytest.mark.parametrize(
    ("key", "launch"),
    [
        ("num_processes", {"num_processes": 3, "num_machines": 2, "main_process_ip": "a"}),
        ("machine_rank", {"num_processes": 2, "num_machines": 2, "machine_rank": 2, "main_process_ip": "a"}),
        ("main_process_ip", {"num_processes": 2, "num_machines": 2}),
        ("main_process_ip", {"num_processes": 2, "main_process_ip": "a"}),
        ("pipeline", {"num_processes": 3, "pipeline": 2}),
        ("num_processes", {"pipeline": 2}),
        ("fsdp", {"fsdp": True}),
        ("fsdp", {"fsdp": True, "num_processes": 2, "pipeline": 2}),
        ("max_restarts", {"max_restarts": 1}),
        ("cpu_offload", {"num_processes": 2, "cpu_offload": True}),
        ("reshard_after_forward", {"num_processes": 2, "reshard_after_forward": False}),
        ("schedule", {"num_processes": 2, "schedule": "gpipe"}),
        ("num_processes", {"num_processes": 2, "offload": "disk"}),
        ("num_processes", {"num_processes": 2, "offload": "disk", "fsdp": True}),
        ("offload_dir", {"offload": "cpu", "offload_dir": "folder"}),
        ("blocks_per_stage", {"blocks_per_stage": 2}),
        ("main_process_port", {"main_process_port": 70000}),
        ("main_process_port", {"main_process_port": 2000}),
        ("timeout_s", {"timeout_s": 0}),
        ("timeout_s", {"timeout_s": 5.5}),
    ],
)
def test_what_contradicts_itself_or_has_no_effect_is_refused(key: str, launch: dict[str, Any]) -> None:
    found = problems(**launch)
    assert f"launch.{key}" in found
    if key in launch:
        assert str(launch[key]).casefold() in found[f"launch.{key}"].casefold()


def test_under_a_launcher_its_number_of_processes_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert problems(pipeline=2) == {} and problems(num_processes=4, fsdp=True) == {}
    assert "4 processes" in problems(num_processes=2)["launch.num_processes"]
    assert "launch.pipeline" in problems(pipeline=3)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "USE_FSDP" in problems()["launch.fsdp"]
    assert "3" in problems(max_restarts=3)["launch.max_restarts"]
    assert "launch.num_machines" in problems(num_processes=4, num_machines=2, main_process_ip="a")


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("MIXED_PRECISION", "bf16", "train.mixed_precision"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "train.micro_batch_size"),
        ("DYNAMO_BACKEND", "INDUCTOR", "train.compile"),
    ],
)
def test_what_accelerate_launch_asks_for_without_effect_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, key: str
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    assert value.lower() in problems()[key]

"""The machine model by hand: figures, links, rings, and settings that fit nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.config.compose import compose, compose_plan
from chainft.config.launch import LaunchConfig
from chainft.config.plan_config import PlanConfig
from chainft.errors import ConfigError
from chainft.plan.exchange import Exchange, all_gather, all_reduce, message
from chainft.plan.machine import DEVICES, GIB, Machine, Wire, check_machine, machine_of
from chainft.plan.pipeline_schedule import SCHEDULES, StageCost, make_schedule
from chainft.plan.replay import Edge, replay

WIRE = Wire(bytes_per_s=100.0, latency_s=0.5)


def machine(num_processes: int = 4, *, mixed_precision: str = "no", **settings: object) -> Machine:
    config = PlanConfig(**settings)  # type: ignore[arg-type]
    launch = LaunchConfig(num_processes=num_processes)
    return machine_of(config, launch, DEVICES[config.machine], mixed_precision=mixed_precision)


def test_what_is_left_away_is_that_of_the_machine_by_name() -> None:
    made = machine(machine="a100", memory_gib=40, inside_latency_s=0.0)
    assert (made.flops_per_s, made.memory_bytes) == (19.5e12, 40 * GIB)
    assert made.inside == replace(DEVICES["a100"].inside, latency_s=0.0)
    assert made.rate == 19.5e12 * 0.5


@pytest.mark.parametrize(("precision", "peak"), [("no", 67e12), ("bf16", 989.4e12), ("fp16", 989.4e12)])
def test_the_peak_is_that_of_the_arithmetic(precision: str, peak: float) -> None:
    assert machine(mixed_precision=precision).flops_per_s == peak


def test_a_link_leaves_the_machine_where_its_ranks_are_on_two() -> None:
    made = machine(8, devices_per_machine=4)
    assert [made.link(ranks) for ranks in (range(4), range(4, 8), range(8), (3, 4))] == [
        "inside", "inside", "between", "between"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("launch", "settings", "what"),
    [
        ({"num_processes": "auto"}, {}, "counts the GPUs"),
        ({"num_processes": 6}, {"devices_per_machine": 4}, "no multiple of plan.devices_per_machine = 4"),
        ({"num_processes": 8, "num_machines": 4}, {"devices_per_machine": 4}, "makes 2 machines"),
        ({"num_processes": 8}, {"between_bytes_per_s": 1e9}, "there is one machine"),
        ({"num_processes": 8, "num_machines": 8}, {"inside_latency_s": 0.0}, "each machine has one device"),
    ],
)
def test_settings_that_fit_nothing_are_refused(launch: dict, settings: dict, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        check_machine(PlanConfig(**settings), LaunchConfig(**launch))


def test_only_a_plan_reads_the_machine() -> None:
    words = ["task=ner", "plan.machine=l4"]
    with pytest.raises(ConfigError, match=r"plan\.machine=l4 has no effect here"):
        compose(words)
    planned = compose_plan(words)[1]
    assert planned is not None and planned.machine == "l4"


def test_a_ring_sends_what_the_formulas_say() -> None:
    # 3 turns of 200 bytes, each 0.5 s + 2 s.
    assert all_gather(800, 4, WIRE) == Exchange(600, 7.5)
    assert all_reduce(800, 4, WIRE) == Exchange(1200, 15.0)
    assert all_reduce(800, 1, WIRE) == all_gather(0, 4, WIRE) == Exchange()
    assert message(100, WIRE) == Exchange(100, 1.5)


@given(
    name=st.sampled_from(SCHEDULES),
    num_ranks=st.integers(1, 5),
    num_micro_batches=st.integers(1, 9),
    communication=st.sampled_from([0.0, 0.25]),
)
def test_a_replay_with_the_costs_of_the_schedule_takes_its_time(
    name: str, num_ranks: int, num_micro_batches: int, communication: float
) -> None:
    stages = 1 if name in ("gpipe", "1f1b") else 2
    schedule = make_schedule(name, num_ranks, stages, num_micro_batches, communication=communication)
    edges = [
        Edge(*([communication] * 2 if one != other else [0.0] * 2))
        for one, other in zip(schedule.ranks, schedule.ranks[1:], strict=False)
    ]
    course = replay(schedule, [StageCost()] * len(schedule.ranks), edges)
    assert course.seconds == pytest.approx(schedule.makespan)
    assert course.bubble_fraction == pytest.approx(schedule.bubble)


def test_the_slowest_stage_sets_the_pace_and_frozen_ones_wait_for_no_gradient() -> None:
    schedule = make_schedule("1f1b", 2, 1, 3)
    costs = [StageCost(1, 0, 0), StageCost(1, 1, 1)]
    # The upper stage begins at 1 and works 3 times 1 + 2; the lower one is done after 3.
    assert replay(schedule, costs, [Edge(0.0, None)]).seconds == 10
    assert replay(schedule, costs, [Edge(0.5, None)]).seconds == 10.5

"""The learning-rate curves: values by hand, and equal to those of transformers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.config.rules import RULES
from chainft.config.run import DataConfig, RunConfig, SchedulerConfig, TaskConfig
from chainft.errors import ConfigError, Problem
from chainft.train.schedule import lr_factor, warmup_steps_of

CURVES = ("linear", "cosine", "polynomial", "constant", "inverse_sqrt", "warmup_stable_decay")
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "cosine": ("cosine", {}),
    "polynomial": ("polynomial", {"power": 2.0, "lr_end": 0.0}),
    "constant": ("constant_with_warmup", {}),
    "inverse_sqrt": ("inverse_sqrt", {}),
    "warmup_stable_decay": ("warmup_stable_decay", {"num_decay_steps": 4}),
}


def problems(config: SchedulerConfig) -> list[Problem]:
    """What the rules of the config say about a scheduler."""
    run = RunConfig(task=TaskConfig(name="ner"), data=DataConfig(name="conll"), scheduler=config)
    return [problem for rule in RULES for problem in rule(run) if (problem.key or "").startswith("scheduler.")]


def curve(total: int, config: SchedulerConfig) -> list[float]:
    return [lr_factor(step, total_steps=total, config=config) for step in range(total)]


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("name", CURVES)
def test_curve_equals_that_of_transformers(name: Any, warmup: int) -> None:
    import torch
    from transformers import get_scheduler

    config = SchedulerConfig(name=name, warmup_steps=warmup)
    their_name, options = THEIRS[name]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(their_name, optimizer, warmup, 40, scheduler_specific_kwargs=options)
    theirs = []
    for _ in range(40):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert curve(40, config) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SchedulerConfig(name="linear", warmup_steps=2, min_lr_fraction=0.5), [0, 0.5, 1, 0.875, 0.75, 0.625]),
        (SchedulerConfig(name="polynomial", warmup_steps=0, power=1.0), [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        (SchedulerConfig(name="polynomial", warmup_steps=2, power=3.0), [0, 0.5, 1, 27 / 64, 8 / 64, 1 / 64]),
        (
            SchedulerConfig(name="cosine", warmup_steps=2, min_lr_fraction=0.2),
            [0, 0.5, 1, 0.88284271, 0.6, 0.31715729],
        ),
        (SchedulerConfig(name="warmup_stable_decay", warmup_steps=1, decay_fraction=0.5), [0, 1, 1, 1, 0.75, 0.25]),
        (SchedulerConfig(name="warmup_stable_decay", warmup_steps=1, decay_fraction=0.0), [0, 1, 1, 1, 1, 1]),
    ],
)
def test_curve_has_the_values_computed_by_hand(config: SchedulerConfig, expected: list[float]) -> None:
    assert curve(6, config) == pytest.approx(expected, abs=1e-7)


@given(
    name=st.sampled_from(CURVES),
    total=st.integers(1, 400),
    fraction=st.floats(0, 0.8),
    step=st.integers(0, 800),
)
def test_factor_stays_between_0_and_1(name: Any, total: int, fraction: float, step: int) -> None:
    config = SchedulerConfig(name=name, warmup_fraction=fraction)
    assert 0.0 <= lr_factor(step, total_steps=total, config=config) <= 1.0


@pytest.mark.parametrize("name", CURVES)
def test_single_step_runs_at_the_peak(name: Any) -> None:
    assert curve(1, SchedulerConfig(name=name)) == [1.0]


@pytest.mark.parametrize(
    ("total", "fraction", "expected"), [(110, 0.1, 11), (105, 0.1, 11), (10, 0.0, 0), (2, 0.9, 1)]
)
def test_warmup_fraction_is_rounded_up_without_float_error(total: int, fraction: float, expected: int) -> None:
    assert warmup_steps_of(total, SchedulerConfig(warmup_fraction=fraction)) == expected


def test_a_tenth_warms_up_by_default() -> None:
    assert warmup_steps_of(200, SchedulerConfig()) == 20


@pytest.mark.parametrize("warmup", [5, 6])
def test_warmup_that_leaves_no_step_is_an_error(warmup: int) -> None:
    with pytest.raises(ConfigError, match=f"warmup_steps={warmup} is not less than the 5 steps") as caught:
        lr_factor(0, total_steps=5, config=SchedulerConfig(warmup_steps=warmup))
    assert caught.value.problems[0].key == "scheduler.warmup_steps"


def test_warmup_and_decay_that_overlap_are_an_error() -> None:
    config = SchedulerConfig(name="warmup_stable_decay", warmup_steps=6, decay_fraction=0.5)
    with pytest.raises(ConfigError, match="6 steps of warm-up and 5 of decay do not fit into the 10"):
        lr_factor(0, total_steps=10, config=config)


def test_two_kinds_of_warmup_are_a_problem() -> None:
    config = SchedulerConfig(warmup_steps=3, warmup_fraction=0.1)
    assert [problem.slug for problem in problems(config)] == ["contradiction"]


@pytest.mark.parametrize("field", ["min_lr_fraction", "power", "decay_fraction"])
@pytest.mark.parametrize("name", CURVES)
def test_a_setting_is_a_problem_exactly_where_it_changes_nothing(name: Any, field: Any) -> None:
    options: dict[str, Any] = {field: 0.3}
    config = SchedulerConfig(name=name, **options)
    has_effect = curve(20, config) != curve(20, SchedulerConfig(name=name))
    assert [problem.key for problem in problems(config)] == ([] if has_effect else [f"scheduler.{field}"])

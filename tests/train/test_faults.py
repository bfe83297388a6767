"""Injected faults: each happens exactly when its conditions hold, and never outside tests."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from chainft.errors import ConfigError
from chainft.train import faults
from chainft.train.faults import InjectedError, fault_point, parse_faults


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("CHAINFT_TESTING", "1")
    monkeypatch.setattr(faults, "_active", ("", ()))
    return monkeypatch


def points(*places: tuple[str, int | None]) -> list[bool]:
    """Whether `nan` is asked for at each fault point."""
    return [fault_point(name, step=step) for name, step in places]


def test_nothing_happens_without_the_testing_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAINFT_TESTING", raising=False)
    monkeypatch.setenv("CHAINFT_FAULT", "not even read")
    assert points(("forward", 1)) == [False]


def test_nothing_happens_without_a_fault(inject: pytest.MonkeyPatch) -> None:
    inject.delenv("CHAINFT_FAULT", raising=False)
    assert points(("forward", 1)) == [False]


def test_an_inactive_point_costs_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAINFT_TESTING", raising=False)
    start = time.perf_counter()
    for _ in range(1000):
        fault_point("forward", step=3)
    assert time.perf_counter() - start < 0.1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nan", [True, True, True, True, True]),
        ("nan@step=2", [False, False, True, True, False]),
        ("nan@phase=loss", [False, True, False, True, False]),
        ("nan@phase=save", [False, False, False, False, True]),
        ("nan@phase=sav", [False, False, False, False, False]),
        ("nan@step=2,phase=loss", [False, False, False, True, False]),
        ("nan@phase=loss,count=2", [False, False, False, True, False]),
        ("nan@count=3", [False, False, True, False, False]),
        ("nan@rank=1", [False, False, False, False, False]),
        ("nan@rank=0,step=1", [True, True, False, False, False]),
        ("nan@phase=loss,count=1; nan@phase=save.model", [False, True, False, False, True]),
    ],
)
def test_fault_happens_where_all_conditions_hold(inject: pytest.MonkeyPatch, text: str, expected: list[bool]) -> None:
    inject.setenv("CHAINFT_FAULT", text)
    inject.delenv("RANK", raising=False)
    assert points(("forward", 1), ("loss", 1), ("forward", 2), ("loss", 2), ("save.model", None)) == expected


def test_rank_is_that_of_the_process(inject: pytest.MonkeyPatch) -> None:
    inject.setenv("CHAINFT_FAULT", "nan@rank=1")
    inject.setenv("RANK", "1")
    assert points(("loss", 1)) == [True]


def test_oom_raises_what_torch_raises(inject: pytest.MonkeyPatch) -> None:
    import torch

    inject.setenv("CHAINFT_FAULT", "oom@step=3,count=1")
    points(("forward", 2))
    with pytest.raises(torch.OutOfMemoryError, match="injected at forward"):
        points(("forward", 3))
    points(("forward", 3))


@pytest.mark.parametrize("action", ["enospc", "edquot", "erofs", "eacces", "eio"])
def test_errors_of_the_system_have_their_number(inject: pytest.MonkeyPatch, action: str) -> None:
    inject.setenv("CHAINFT_FAULT", f"{action}@phase=save.model")
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        points(("save.model", 1))
    assert caught.value.errno == getattr(errno, action.upper())


def test_raise_raises_an_error_that_nothing_expects(inject: pytest.MonkeyPatch) -> None:
    inject.setenv("CHAINFT_FAULT", "raise")
    with pytest.raises(InjectedError, match="injected at evaluate"):
        points(("evaluate", None))


def test_sleep_sleeps(inject: pytest.MonkeyPatch) -> None:
    inject.setenv("CHAINFT_FAULT", "sleep@seconds=0.05")
    start = time.perf_counter()
    points(("forward", 1))
    assert time.perf_counter() - start >= 0.05


@pytest.mark.parametrize(
    ("action", "number"), [("kill", signal.SIGKILL), ("term", signal.SIGTERM), ("int", signal.SIGINT)]
)
def test_signals_reach_the_own_process(action: str, number: signal.Signals) -> None:
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "from chainft.train.faults import fault_point\n"
        "fault_point('forward', step=1); print('one', flush=True); fault_point('forward', step=2); print('two')"
    )
    environment = os.environ | {"CHAINFT_TESTING": "1", "CHAINFT_FAULT": f"{action}@step=2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (-number, "one\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kil@step=1", "there is no action 'kil'"),
        ("kil@step=1", "did you mean 'kill'?"),
        ("kill@stp=1", "did you mean 'step'?"),
        ("kill@step", "there is no condition 'step'"),
        ("kill@step=x", "step='x' is not a number"),
        ("kill@step=0", "step='0' is empty or less than 1"),
        ("kill@phase=", "phase='' is empty"),
        ("kill@count=0", "less than 1"),
        ("sleep@seconds=long", "seconds='long' is not a number"),
        ("@step=1", "there is no action ''"),
    ],
)
def test_mistakes_in_the_specification_are_loud(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_faults(text)
    assert words in caught.value.render()
    assert caught.value.problems[0].key == "CHAINFT_FAULT"

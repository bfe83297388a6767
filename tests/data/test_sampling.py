"""Whose turn it is when several tasks are learned together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.config.joint import JointConfig
from chainft.data.sampling import joint_order, shares


def config(sampling: str, temperature: float | None = None) -> JointConfig:
    return JointConfig(name="joint", sampling=sampling, temperature=temperature)  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(0, 5))
def test_proportional_sampling_reads_every_example_once_an_epoch(sizes: list[int], epoch: int) -> None:
    order = joint_order(sizes, config("proportional"), seed=1, epoch=epoch)
    assert sorted(order.tolist()) == list(range(sum(sizes)))


def test_temperature_evens_out_by_the_root_of_the_sizes() -> None:
    """sqrt(900) : sqrt(100) = 3 : 1 of 1000."""
    assert shares([900, 100], config("temperature")) == [750, 250]
    assert shares([900, 100], config("temperature", 1)) == [900, 100]
    assert shares([900, 100], config("round_robin")) == [500, 500]
    assert shares([3000, 2000], config("temperature", 1e-3)) == [5000, 0]


def test_tasks_take_turns_in_round_robin() -> None:
    order = joint_order([6, 2, 4], config("round_robin"), seed=0, epoch=0)
    starts = np.array([0, 6, 8, 12])
    assert (np.searchsorted(starts, order, side="right") - 1).tolist() == [0, 1, 2] * 4


@pytest.mark.parametrize("sampling", ["temperature", "round_robin"])
def test_no_example_comes_again_before_all_of_its_task_came(sampling: str) -> None:
    sizes = [30, 5]
    drawn = np.concatenate([joint_order(sizes, config(sampling), seed=3, epoch=epoch) for epoch in range(6)])
    small = drawn[drawn >= 30]
    for start in range(0, len(small) - 5, 5):
        assert sorted(small[start : start + 5].tolist()) == [30, 31, 32, 33, 34]


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    sizes = [7, 9]
    one = joint_order(sizes, config("temperature"), seed=5, epoch=2)
    assert np.array_equal(one, joint_order(sizes, config("temperature"), seed=5, epoch=2))
    assert not np.array_equal(one, joint_order(sizes, config("temperature"), seed=5, epoch=3))
    assert not np.array_equal(one, joint_order(sizes, config("temperature"), seed=6, epoch=2))

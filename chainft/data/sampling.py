"""In which order examples of several tasks are learned: a function of seed and epoch alone, as for one task.

An epoch has as many examples as there are; how many of them are whose, `sampling` says. Each task goes through its own
examples in random order, again and again, so none comes twice before all others came once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chainft.config.joint import DEFAULT_TEMPERATURE, JointConfig


def joint_order(sizes: Sequence[int], config: JointConfig, *, seed: int, epoch: int) -> np.ndarray:
    """(num_examples,) numbers of examples, which stand task after task, `sizes` of each.

    >>> joint_order([2, 4], JointConfig(name="joint", sampling="round_robin"), seed=0, epoch=0) >= 2
    array([False,  True, False,  True, False,  True])
    """
    counts = shares(sizes, config)
    turns = _turns(counts, config, seed=seed, epoch=epoch)
    order = np.zeros(len(turns), dtype=np.int64)
    starts = np.cumsum([0, *sizes])
    for task, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        order[turns == task] = starts[task] + _stream(size, epoch * count, count, seed=[seed, task])
    return order


def shares(sizes: Sequence[int], config: JointConfig) -> list[int]:
    """How many examples of an epoch are of each task; together as many as there are."""
    total, powers = sum(sizes), {"proportional": 1.0, "round_robin": 0.0}
    power = powers.get(config.sampling, 1 / (config.temperature or DEFAULT_TEMPERATURE))
    weights = (np.array(sizes) / max(sizes)) ** power  # At most 1, whatever the temperature.
    exact = weights / weights.sum() * total
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: total - counts.sum()]] += 1
    return [int(count) for count in counts]


def _turns(counts: Sequence[int], config: JointConfig, *, seed: int, epoch: int) -> np.ndarray:
    """(num_examples,) which task's turn it is."""
    if config.sampling == "round_robin":
        return np.arange(sum(counts)) % len(counts)
    turns = np.repeat(np.arange(len(counts)), counts)
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(turns)


def _stream(size: int, start: int, count: int, *, seed: list[int]) -> np.ndarray:
    """(count,) what a task draws from draw `start` on: one random order of its examples after the other."""
    first, last = start // size, (start + count - 1) // size
    rounds = [np.random.default_rng([*seed, number]).permutation(size) for number in range(first, last + 1)]
    return np.concatenate(rounds)[start - first * size :][:count] if count else np.zeros(0, dtype=np.int64)

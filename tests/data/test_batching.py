"""Order, micro-batches and padding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.data.batching import by_length, collate, epoch_order, micro_batches
from chainft.tasks.base import Column

TASK: Any = SimpleNamespace(
    pad_token_id=7,
    features={
        "input_ids": Column(pad="pad_token", model_input=True),
        "labels": Column(pad=-100),
        "weights": Column(pad=0, dtype="float32", axis=None),
    },
)


def row(*ids: int) -> dict[str, np.ndarray]:
    return {
        "input_ids": np.array(ids, dtype=np.int32),
        "labels": np.array(ids, dtype=np.int32) * 10,
        "weights": np.array([0.5, 1.5], dtype=np.float32),
    }


def test_collate_pads_on_the_right_and_masks() -> None:
    batch = collate([row(1, 2, 3), row(4)], TASK, [5, 9])
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3], [4, 7, 7]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.targets["labels"].tolist() == [[10, 20, 30], [40, -100, -100]]
    assert batch.targets["weights"].tolist() == [[0.5, 1.5], [0.5, 1.5]]
    assert batch.features == (5, 9)
    assert batch.has_targets


def test_each_axis_is_padded_to_its_own_longest() -> None:
    """As the two sides of an encoder-decoder need."""
    features = {
        "input_ids": Column(pad="pad_token", model_input=True),
        "labels": Column(pad=-100, axis="response"),
        "decoder_input_ids": Column(pad=7, axis="response", model_input=True),
    }
    task: Any = SimpleNamespace(pad_token_id=7, features=features)
    first = {"input_ids": np.array([1, 2, 3]), "labels": np.array([4]), "decoder_input_ids": np.array([2])}
    other = {"input_ids": np.array([1]), "labels": np.array([5, 6]), "decoder_input_ids": np.array([2, 5])}
    batch = collate([first, other], task, [0, 1])
    assert batch.targets["labels"].tolist() == [[4, -100], [5, 6]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[2, 7], [2, 5]]
    assert batch.inputs["input_ids"].tolist() == [[1, 2, 3], [1, 7, 7]]


def test_a_batch_without_gold_has_no_targets() -> None:
    rows = [{"input_ids": np.array([1], dtype=np.int32)}]
    assert not collate(rows, TASK, [0]).has_targets


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone() -> None:
    first = epoch_order(50, seed=3, epoch=2)
    np.random.default_rng().random(10)
    assert np.array_equal(first, epoch_order(50, seed=3, epoch=2))
    assert not np.array_equal(first, epoch_order(50, seed=3, epoch=3))
    assert not np.array_equal(first, epoch_order(50, seed=4, epoch=2))


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=40),
    st.integers(1, 16),
    st.none() | st.integers(1, 600),
    st.integers(0, 500),
)
def test_micro_batches_hold_every_row_once_within_the_limits(
    lengths: list[int], max_rows: int, max_tokens: int | None, overhead: int
) -> None:
    groups = micro_batches(lengths, max_rows=max_rows, max_tokens=max_tokens, overhead=overhead)
    assert sorted(position for group in groups for position in group) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(lengths[position] for position in group)
        assert len(group) <= max_rows
        assert max_tokens is None or padded <= max_tokens or len(group) == 1


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(0, 100))
def test_micro_batches_cost_no_more_than_any_cut_of_the_sorted_rows(lengths: list[int], overhead: int) -> None:
    def cost(cut: list[list[int]]) -> int:
        return sum(overhead + len(group) * max(group) for group in cut)

    chosen = micro_batches(lengths, max_rows=99, overhead=overhead)
    ours = cost([[lengths[position] for position in group] for group in chosen])
    ordered = sorted(lengths)
    for mask in range(2 ** (len(ordered) - 1)):
        cut: list[list[int]] = [[]]
        for position, length in enumerate(ordered):
            cut[-1].append(length)
            if position < len(ordered) - 1 and mask >> position & 1:
                cut.append([])
        assert ours <= cost(cut)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_evaluation_batches_run_longest_first(batch_size: int) -> None:
    lengths = np.array([3, 9, 1, 9, 4])
    batches = by_length(lengths, batch_size)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]
    assert lengths[order].tolist() == [9, 9, 4, 3, 1]
    assert all(len(batch) <= batch_size for batch in batches)

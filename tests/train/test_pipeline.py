"""A pipeline of real processes trains and evaluates as one process does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.train.gloo import Ranks
from tests.train.pipeline_case import Case, assert_equal, piped, single

BERT, LLAMA, T5 = Case("bert:classify"), Case("llama:causal", tied=True), Case("t5:seq2seq")
SCHEDULES = [
    ("gpipe", 1), ("1f1b", 1), ("interleaved_1f1b", 2), ("interleaved_zero_bubble", 1), ("interleaved_zero_bubble", 2),
    ("zbv", 2),
]  # fmt: skip


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    ranks = Ranks(2)
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def four() -> Iterator[Ranks]:
    ranks = Ranks(4)
    yield ranks
    ranks.close()


@pytest.mark.parametrize("case", [BERT, LLAMA, T5], ids=lambda case: case.model)
@pytest.mark.parametrize(("schedule", "stages"), SCHEDULES)
def test_two_ranks_train_as_one_process(two: Ranks, case: Case, schedule: str, stages: int) -> None:
    assert_equal(two.run(piped, case, schedule, stages), single(case))

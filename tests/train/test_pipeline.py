"""A pipeline of real processes trains and evaluates as one process does."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers.modeling_outputs import SequenceClassifierOutput

from chainft.train.pipeline_output import Sharing
from tests.train.gloo import Ranks
from tests.train.pipeline_case import SHAPES, Case, assert_equal, difference, piped, single

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


@pytest.mark.parametrize(
    ("case", "schedule", "stages"),
    [
        (BERT, "1f1b", 1),
        (LLAMA, "zbv", 2),
        (T5, "interleaved_1f1b", 2),
        *(
            pytest.param(case, schedule, stages, marks=pytest.mark.slow)
            for case in (BERT, LLAMA, T5)
            for schedule, stages in SCHEDULES
        ),
    ],
    ids=lambda value: value.model if isinstance(value, Case) else str(value),
)
def test_four_ranks_train_as_one_process(four: Ranks, case: Case, schedule: str, stages: int) -> None:
    """Also with fewer micro-batches than ranks."""
    assert_equal(four.run(piped, case, schedule, stages), single(case))


@pytest.mark.parametrize(("schedule", "stages"), [("gpipe", 1), ("1f1b", 1), ("zbv", 2)])
def test_frozen_first_stage_is_sent_no_gradient(two: Ranks, schedule: str, stages: int) -> None:
    frozen = Case("bert:classify", frozen=("embeddings", *(f"layer.{block}." for block in range(4 // stages))))
    ranks = two.run(piped, frozen, schedule, stages)
    assert_equal(ranks, single(frozen))
    micro_batches = sum(map(len, SHAPES))
    edges = {lower: count for one in ranks for lower, count in one.seen.handed_back.items()}
    assert edges == {lower: micro_batches for lower in range(1, 2 * stages - 1)}


@pytest.mark.parametrize(
    ("case", "schedule", "stages"),
    [
        (Case("bert:classify", frozen=("layer.2.", "layer.3.")), "zbv", 2),
        (Case("llama:causal", tied=True, frozen=("layers.4.", "layers.5.", "layers.6.", "layers.7.")), "1f1b", 1),
        (Case("llama:causal", tied=True, frozen=("embed_tokens", "layers.0.", "layers.1.")), "interleaved_1f1b", 2),
        (Case("t5:seq2seq", frozen=("encoder.", "shared")), "interleaved_zero_bubble", 2),
    ],
    ids=lambda value: "frozen " + " ".join(value.frozen) if isinstance(value, Case) else str(value),
)
def test_frozen_parts_stay_and_the_rest_trains(two: Ranks, case: Case, schedule: str, stages: int) -> None:
    assert_equal(two.run(piped, case, schedule, stages), single(case))


def test_unfrozen_stages_get_gradients_from_that_step_on(two: Ranks) -> None:
    case = Case("bert:classify", frozen=("embeddings", "layer.0.", "layer.1.", "layer.2.", "layer.3."), unfrozen_at=1)
    ranks = two.run(piped, case, "1f1b", 1)
    assert_equal(ranks, single(case))
    assert ranks[1].seen.handed_back == {0: sum(map(len, SHAPES[1:]))}


def test_adapters_train_as_in_one_process(two: Ranks) -> None:
    pytest.importorskip("peft")
    case = Case("bert:classify", lora=True)
    assert_equal(two.run(piped, case, "interleaved_zero_bubble", 1), single(case))


@pytest.mark.parametrize("kind", ["albert:classify", "deberta-v2:classify", "mpnet:classify", "gpt2:causal"])
def test_parameters_of_several_stages_stay_one_parameter(two: Ranks, kind: str) -> None:
    case = Case(kind, blocks=4)
    assert_equal(two.run(piped, case, "zbv", 2), single(case), parameter=2e-5)


@pytest.mark.parametrize(("schedule", "stages"), [("1f1b", 1), ("interleaved_zero_bubble", 2)])
def test_blocks_that_stages_share_stay_one_parameter(two: Ranks, schedule: str, stages: int) -> None:
    """On two ranks their gradients are summed, on one they are the same object."""
    case = Case("llama:causal", repeats=True)
    assert_equal(two.run(piped, case, schedule, stages), single(case))


@pytest.mark.parametrize(("schedule", "stages"), [("1f1b", 1), ("zbv", 2)])
def test_mixed_precision_and_recomputation_change_no_more_than_rounding(
    two: Ranks, schedule: str, stages: int
) -> None:
    for case in (Case("bert:classify", bf16=True), Case("bert:classify", recomputed=True)):
        ranks, whole = two.run(piped, case, schedule, stages), single(case)
        tolerance = 1e-2 if case.bf16 else 1e-6
        np.testing.assert_allclose(ranks[0].losses, whole.losses, atol=tolerance)
        assert all(difference(one.gradients, whole.gradients) <= tolerance for one in ranks)


def test_backward_that_may_not_be_cut_is_run_whole(two: Ranks) -> None:
    assert_equal(two.run(piped, BERT, "zbv", 2, False), single(BERT))


@pytest.mark.parametrize("kind", ["bert:classify", "llama:causal", "t5:seq2seq"])
def test_dropout_draws_the_numbers_of_the_single_process(two: Ranks, kind: str) -> None:
    case = Case(kind, dropout=0.3)
    assert single(case).losses[0] != single(Case(kind)).losses[0]
    assert_equal(two.run(piped, case, "zbv", 2), single(case))


def test_dropout_that_is_recomputed_draws_them_again(two: Ranks) -> None:
    case = Case("bert:classify", dropout=0.3, recomputed=True)
    assert_equal(two.run(piped, case, "1f1b", 1), single(case))


def test_pipelines_beside_each_other_do_not_meet(four: Ranks) -> None:
    """As with data parallelism."""
    ranks = four.run(piped, LLAMA, "interleaved_1f1b", 2, True, 3, 2)
    for pipeline in (ranks[:2], ranks[2:]):
        assert_equal(pipeline, single(LLAMA))


@pytest.mark.parametrize(("schedule", "stages"), [("1f1b", 1), ("zbv", 2)])
def test_sharded_blocks_train_as_whole_ones(four: Ranks, schedule: str, stages: int) -> None:
    """FSDP2 under a pipeline, where the backward pass is not cut in two."""
    ranks = four.run(piped, LLAMA, schedule, stages, False, 3, 2, True)
    for pipeline in (ranks[:2], ranks[2:]):
        assert_equal(pipeline, single(LLAMA))


def test_a_pipeline_of_one_rank_is_a_single_process(two: Ranks) -> None:
    for one in two.run(piped, BERT, "gpipe", 1, True, 3, 1):
        assert_equal([one], single(BERT), gradient=0, parameter=0)


def test_a_rank_that_fails_ends_the_others(two: Ranks) -> None:
    with pytest.raises(AssertionError, match="two ranks only"):
        two.run(fails_on_one)
    assert two.run(number_of) == [0, 1]


def test_outputs_reach_every_rank_as_they_are(two: Ranks) -> None:
    for logits, names, text in two.run(shared_output):
        assert logits.tolist() == [[0.0, 1.0], [2.0, 3.0]]
        assert (names, text) == (["tags", "more"], "SequenceClassifierOutput")


def test_outputs_of_an_unknown_kind_are_refused(two: Ranks) -> None:
    with pytest.raises(AssertionError, match="a complex in a model's output"):
        two.run(shared_output, 1j)


def shared_output(rank: int, more: object = None) -> tuple[np.ndarray, list[str], str]:
    assert dist.group.WORLD is not None
    share = Sharing(dist.group.WORLD, 1, torch.device("cpu"))
    for factor in (5.0, 1.0):  # Of the second only tensors are sent.
        logits = factor * torch.arange(4.0).view(2, 2)
        output = share({"tags": SequenceClassifierOutput(logits=logits.T.contiguous().T), "more": more}, "key")
    return output["tags"].logits.numpy(), list(output), type(output["tags"]).__name__


def number_of(rank: int) -> int:
    return rank


def fails_on_one(rank: int) -> None:
    if rank:
        raise RuntimeError("two ranks only")
    dist.barrier()

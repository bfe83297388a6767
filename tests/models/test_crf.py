"""The linear-chain CRF against brute force over all sequences of tags, and its place on a model."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForTokenClassification

from chainft.models.crf import (
    LinearChainCrf,
    Steps,
    legal_steps_only,
    log_partition,
    marginals,
    negative_log_likelihood,
    path_score,
    viterbi,
)
from chainft.models.task_modules import attach, fill
from chainft.models.weights import Located
from chainft.text.schemes import legal_steps, violations

NAMES = ("O", "B-A", "I-A", "B-B", "I-B")
LEGAL = tuple(torch.tensor(mask) for mask in legal_steps(NAMES, "iob2"))


def crf_of(seed: int, *, size: int = len(NAMES), legal: tuple[Tensor, ...] | None = None) -> LinearChainCrf:
    """A CRF with random scores; without `legal`, every step is."""
    everything = (torch.ones(size).bool(), torch.ones(size, size).bool(), torch.ones(size).bool())
    crf = LinearChainCrf(legal or everything)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter, std=2.0, generator=generator)
    return crf


def batch_of(lengths: list[int], size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores (B, W, C), with nonsense beyond the mask (B, W)."""
    generator = torch.Generator().manual_seed(seed)
    emissions = torch.randn(len(lengths), max(lengths), size, generator=generator) * 3
    return emissions, torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


def score(crf: LinearChainCrf, emissions: Tensor, tags: tuple[int, ...]) -> float:
    """As the module's docstring defines it, of one sentence."""
    start, between, end = (crf.get_parameter(name).detach() for name in ("start", "transitions", "end"))
    found = float(start[tags[0]] + end[tags[-1]])
    found += sum(float(emissions[word, tag]) for word, tag in enumerate(tags))
    return found + sum(float(between[a, b]) for a, b in itertools.pairwise(tags))


def whole(crf: LinearChainCrf, rows: int) -> Steps:
    return crf.steps(torch.zeros(rows, dtype=torch.long), torch.zeros(rows, dtype=torch.long))


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3), size=st.integers(2, 4), seed=st.integers(0, 99))
def test_sums_maxima_and_marginals_are_those_of_brute_force(lengths: list[int], size: int, seed: int) -> None:
    crf = crf_of(seed, size=size)
    emissions, mask = batch_of(lengths, size, seed)
    steps = whole(crf, len(lengths))
    sums, best = log_partition(emissions, mask, steps), viterbi(emissions, mask, steps)
    shares = marginals(emissions, mask, steps)
    for row, length in enumerate(lengths):
        paths = list(itertools.product(range(size), repeat=length))
        scores = torch.tensor([score(crf, emissions[row], path) for path in paths], dtype=torch.float64)
        assert float(sums[row].detach()) == pytest.approx(float(scores.logsumexp(0)), abs=1e-4)
        assert tuple(best[row, :length].tolist()) == paths[int(scores.argmax())]
        assert best[row, length:].tolist() == [0] * (max(lengths) - length)
        weights = scores.softmax(0)
        for word, tag in itertools.product(range(length), range(size)):
            share = sum(float(weight) for weight, path in zip(weights, paths, strict=True) if path[word] == tag)
            assert float(shares[row, word, tag].detach()) == pytest.approx(share, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_only_legal_sequences_have_probability_and_are_found(lengths: list[int], seed: int) -> None:
    crf = crf_of(seed, legal=LEGAL)
    emissions, mask = batch_of(lengths, len(NAMES), seed)
    steps = whole(crf, len(lengths))
    best = viterbi(emissions, mask, steps)
    plain = viterbi(emissions, mask, legal_steps_only(LEGAL, emissions))  # type: ignore[arg-type]
    for row, length in enumerate(lengths):
        paths = list(itertools.product(range(len(NAMES)), repeat=length))
        legal = [path for path in paths if not violations([NAMES[tag] for tag in path], "iob2")]
        scores = torch.tensor([score(crf, emissions[row], path) for path in legal], dtype=torch.float64)
        assert tuple(best[row, :length].tolist()) == legal[int(scores.argmax())]
        assert float(log_partition(emissions, mask, steps)[row].detach()) == pytest.approx(
            float(scores.logsumexp(0)), abs=1e-4
        )
        sums = [sum(float(emissions[row, word, tag]) for word, tag in enumerate(path)) for path in legal]
        assert tuple(plain[row, :length].tolist()) == legal[int(np.argmax(sums))]


def test_loss_of_known_tags_is_minus_the_log_of_their_share() -> None:
    """Two words, two tags, by hand: start (0, 1), transitions ((0, 2), (0, 0)), end (0, 0), emissions all 0.

    Scores: 00: 0, 01: 2, 10: 1, 11: 1.
    """
    crf = crf_of(0, size=2)
    with torch.no_grad():
        crf.get_parameter("start").copy_(torch.tensor([0.0, 1.0]))
        crf.get_parameter("transitions").copy_(torch.tensor([[0.0, 2.0], [0.0, 0.0]]))
        crf.get_parameter("end").zero_()
    emissions, mask = torch.zeros(1, 2, 2), torch.ones(1, 2).bool()
    loss = negative_log_likelihood(emissions, mask, whole(crf, 1), torch.tensor([[0, 1]]))
    total = 1 + np.exp(2) + 2 * np.exp(1)
    assert float(loss.detach()) == pytest.approx(np.log(total) - 2)
    unknown = negative_log_likelihood(emissions, mask, whole(crf, 1), torch.tensor([[0, -100]]))
    assert float(unknown.detach()) == pytest.approx(np.log(total) - np.log(1 + np.exp(2)))


def test_losses_of_parts_given_the_tag_before_are_those_of_the_chain_up_to_each_part() -> None:
    """-log p(y) of a part that begins after tag `a` and is followed by more: start is transitions[a], no end."""
    crf = crf_of(4, size=3)
    emissions, mask = batch_of([2], 3, 5)
    tags = torch.tensor([[2, 0]])
    steps = crf.steps(torch.tensor([1 + 1]), torch.tensor([1]))
    found = float(negative_log_likelihood(emissions, mask, steps, tags)[0].detach())
    between = crf.get_parameter("transitions").detach()
    scores = {
        path: float(
            between[1, path[0]] + between[path[0], path[1]] + emissions[0, 0, path[0]] + emissions[0, 1, path[1]]
        )
        for path in itertools.product(range(3), repeat=2)
    }
    expected = float(torch.tensor(list(scores.values())).logsumexp(0)) - scores[2, 0]
    assert found == pytest.approx(expected, abs=1e-4)


def test_gradients_are_finite_and_exact_under_masks() -> None:
    crf = crf_of(3, legal=LEGAL).double()
    emissions, mask = batch_of([3, 1], len(NAMES), 3)
    emissions = emissions.requires_grad_()
    tags = torch.tensor([[1, 2, 0], [3, 0, 0]])
    negative_log_likelihood(emissions, mask, whole(crf, 2), tags).sum().backward()
    assert emissions.grad is not None and torch.isfinite(emissions.grad).all()
    assert not emissions.grad[1, 1:].any()
    gold = torch.nn.functional.one_hot(tags, len(NAMES)) * mask[..., None]
    expected = marginals(emissions.detach(), mask, whole(crf, 2)) * mask[..., None] - gold
    assert torch.allclose(emissions.grad, expected.float().detach(), atol=1e-5)  # d(-log p) = marginal - gold


def test_a_sequence_gets_the_same_answer_whatever_it_is_batched_with() -> None:
    crf = crf_of(7, legal=LEGAL)
    emissions, mask = batch_of([5, 2, 7], len(NAMES), 8)
    together = viterbi(emissions, mask, whole(crf, 3))
    sums = log_partition(emissions, mask, whole(crf, 3))
    for row, length in enumerate([5, 2, 7]):
        alone = emissions[row : row + 1, :length], mask[row : row + 1, :length]
        assert torch.equal(viterbi(*alone, whole(crf, 1))[0], together[row, :length])
        assert float(log_partition(*alone, whole(crf, 1))[0].detach()) == pytest.approx(
            float(sums[row].detach()), rel=1e-6
        )


def test_the_score_of_a_path_is_that_of_the_definition() -> None:
    crf = crf_of(1, size=3)
    emissions, mask = batch_of([3, 1], 3, 2)
    found = path_score(emissions, mask, whole(crf, 2), torch.tensor([[2, 0, 1], [1, -100, -100]]))
    assert found.tolist() == pytest.approx([score(crf, emissions[0], (2, 0, 1)), score(crf, emissions[1], (1,))])


def test_saved_scores_come_back_in_the_order_of_the_labels(tiny_encoder: Path, tmp_path: Path) -> None:
    model = AutoModelForTokenClassification.from_pretrained(tiny_encoder, num_labels=len(NAMES))
    crf = crf_of(2, legal=LEGAL)
    attach(model, {"crf": crf})
    model.save_pretrained(tmp_path)
    order = [0, 3, 4, 1, 2]
    again = LinearChainCrf(tuple(torch.tensor(m) for m in legal_steps([NAMES[i] for i in order], "iob2")))  # type: ignore[arg-type]
    assert sorted(fill({"crf": again}, Located(str(tmp_path)), order=order)) == [
        "crf.end",
        "crf.start",
        "crf.transitions",
    ]
    assert torch.equal(again.get_parameter("transitions")[1, 2], crf.get_parameter("transitions")[3, 4])
    assert torch.equal(again.get_parameter("start")[3], crf.get_parameter("start")[1])
    assert fill({"crf": again}, Located(str(tiny_encoder)), order=None) == ()

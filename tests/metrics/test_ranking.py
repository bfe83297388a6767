"""Areas and precisions over ranked texts, by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.metrics._out_of_scope import OutOfScope
from chainft.metrics._ranks import auroc, average_precision, mid_ranks
from chainft.metrics.multilabel_ranking import MultilabelRanking
from chainft.metrics.ranking import Ranking

sklearn = pytest.importorskip("sklearn.metrics")
TEXTS = st.lists(st.tuples(st.integers(0, 5).map(lambda n: n / 5), st.booleans()), min_size=1, max_size=40)


def arrays(texts: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score for score, _ in texts]), np.array([yes for _, yes in texts])


def test_auroc_by_hand() -> None:
    """Of 4 pairs of a positive and a negative text 2 are in order, 1 is a tie, 1 is not."""
    scores, positive = arrays([(0.9, True), (0.5, False), (0.5, True), (0.7, False)])
    assert auroc(scores, positive) == pytest.approx((2 + 0.5) / 4)


@given(TEXTS)
def test_auroc_is_the_share_of_pairs_in_order(texts: list[tuple[float, bool]]) -> None:
    scores, positive = arrays(texts)
    pairs = [(one > other) + (one == other) / 2 for one in scores[positive] for other in scores[~positive]]
    assert auroc(scores, positive) == (pytest.approx(np.mean(pairs)) if pairs else None)


@given(TEXTS)
def test_average_precision_is_scikit_learn_s(texts: list[tuple[float, bool]]) -> None:
    scores, positive = arrays(texts)
    wanted = pytest.approx(sklearn.average_precision_score(positive, scores)) if positive.any() else None
    assert average_precision(scores, positive) == wanted


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_mid_ranks_share_the_sum_of_all_ranks(values: list[int]) -> None:
    assert mid_ranks(np.array(values)).sum() == pytest.approx(len(values) * (len(values) + 1) / 2)


@pytest.mark.parametrize("names", ["ab", "abcd"])
def test_single_labels_are_scored_as_by_scikit_learn(names: str) -> None:
    random = np.random.default_rng(1)
    rows = random.dirichlet([1] * len(names), 200).astype(np.float32)
    gold = random.integers(len(names), size=200)
    metric = Ranking()
    for row, answer in zip(rows, gold, strict=True):
        metric.update(names[answer], {"scores": dict(zip(names, row.tolist(), strict=True))})
    values = metric.compute().values
    given = rows[:, 1] if len(names) == 2 else rows / rows.sum(1, keepdims=True)
    wanted = sklearn.roc_auc_score(gold, given, multi_class="ovr", average="macro")
    assert values["auroc"] == pytest.approx(wanted, abs=1e-4 if len(names) > 2 else 1e-9)
    wanted = sklearn.average_precision_score(np.eye(len(names))[gold], rows, average="macro")
    assert values["average_precision"] == pytest.approx(wanted)


def test_several_labels_are_scored_as_by_scikit_learn() -> None:
    random = np.random.default_rng(2)
    rows = random.random((200, 3)).astype(np.float32)
    gold = random.random((200, 3)) < 0.3
    metric = MultilabelRanking()
    for row, answer in zip(rows, gold, strict=True):
        names = [name for name, yes in zip("abc", answer, strict=True) if yes]
        metric.update(names, {"scores": dict(sorted(zip("abc", row.tolist(), strict=True), key=lambda p: -p[1]))})
    values = metric.compute().values
    assert values["auroc"] == pytest.approx(sklearn.roc_auc_score(gold, rows, average="macro"))
    assert values["average_precision"] == pytest.approx(sklearn.average_precision_score(gold, rows, average="macro"))


def test_a_label_that_all_texts_have_or_none_is_left_out() -> None:
    metric = MultilabelRanking()
    metric.update(["a", "b"], {"scores": {"a": 0.9, "b": 0.2, "c": 0.5}})
    metric.update(["b"], {"scores": {"a": 0.1, "b": 0.8, "c": 0.5}})
    assert metric.compute().values == {"auroc": 1.0, "average_precision": 1.0}


@pytest.mark.parametrize("metric", [Ranking(), MultilabelRanking(), OutOfScope("oos")])
def test_no_examples_have_all_values_and_they_are_zero(metric: Ranking | MultilabelRanking | OutOfScope) -> None:
    """fault 15: evaluation of nothing is defined."""
    values = metric.compute().values
    assert values and set(values.values()) == {0.0}


def test_texts_out_of_scope_by_hand() -> None:
    metric = OutOfScope("oos")
    for gold, label, score in (
        ("a", "a", 0.9),  # in scope, right
        ("b", "a", 0.8),  # in scope, wrong
        ("a", "oos", 0.3),  # in scope, rejected
        ("oos", "oos", 0.4),  # out of scope, rejected
        ("oos", "a", 0.85),  # out of scope, missed
    ):
        metric.update(gold, {"label": label, "scores": {"a": score, "b": 1 - score if score > 0.5 else 0.2}})
    values = metric.compute().values
    assert values["in_scope_accuracy"] == pytest.approx(1 / 3)
    assert values["out_of_scope_recall"] == pytest.approx(1 / 2)
    assert values["out_of_scope_precision"] == pytest.approx(1 / 2)
    # 0.4 is less sure than 0.9 and 0.8, 0.85 than 0.9: 3 of 6 pairs.
    assert values["out_of_scope_auroc"] == pytest.approx(3 / 6)


def test_the_class_of_texts_out_of_scope_has_no_say_in_the_confidence() -> None:
    """Where training has the class, a model that is sure of it is not sure of any other label."""
    metric = OutOfScope("oos")
    metric.update("oos", {"label": "oos", "scores": {"oos": 0.9, "a": 0.1}})
    metric.update("a", {"label": "a", "scores": {"a": 0.6, "oos": 0.4}})
    assert metric.compute().values["out_of_scope_auroc"] == 1.0

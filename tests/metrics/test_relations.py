"""Scores of relations, by hand from the definition of SemEval-2010 Task 8's official score."""

from __future__ import annotations

import pytest

from chainft.metrics.relations import Relations
from chainft.tasks.base import Scores


def scores(*pairs: tuple[str, str], negative: str | None = "Other", distance: int = 1) -> Scores:
    metric = Relations()
    for gold, predicted in pairs:
        metric.update({"label": gold, "negative": negative, "distance": distance}, predicted)
    return metric.compute()


def test_a_wrong_direction_costs_precision_and_recall_of_its_relation() -> None:
    """A: gold 3 (two of them e1,e2), predicted 4 in any direction, right 2; B: gold 1, predicted 1, right 1.

    P(A) = 2/4, R(A) = 2/3, F1(A) = 4/7; F1(B) = 1; macro (4/7 + 1) / 2.
    """
    found = scores(
        ("A(e1,e2)", "A(e1,e2)"),
        ("A(e1,e2)", "A(e2,e1)"),
        ("A(e2,e1)", "A(e2,e1)"),
        ("Other", "A(e1,e2)"),
        ("B(e1,e2)", "B(e1,e2)"),
        ("Other", "Other"),
    )
    assert found.values["relation_f1_macro"] == pytest.approx((4 / 7 + 1) / 2)
    assert found.values["relation_precision_macro"] == pytest.approx((2 / 4 + 1) / 2)
    assert found.values["relation_recall_macro"] == pytest.approx((2 / 3 + 1) / 2)
    assert found.values["relation_f1_micro"] == pytest.approx(2 * 3 / (5 + 4))
    assert found.values["relation_f1_undirected"] == pytest.approx((2 * 3 / (4 + 3) + 1) / 2)
    assert found.values["accuracy"] == pytest.approx(4 / 6)
    (row, _) = found.tables[0].rows
    assert row == ("A", 2 / 4, 2 / 3, pytest.approx(4 / 7), 3, 4, 1)


def test_relations_without_gold_or_without_prediction_have_f1_0_and_others_do_not_count() -> None:
    found = scores(("A(e1,e2)", "Other"), ("Other", "B(e2,e1)"), ("C(e1,e2)", "C(e1,e2)"))
    assert found.values["relation_f1_macro"] == pytest.approx(1 / 3)
    assert [row[0] for row in found.tables[0].rows] == ["A", "B", "C"]
    assert scores(("C(e1,e2)", "C(e1,e2)")).values["relation_f1_macro"] == 1.0


def test_nothing_but_no_relation_has_no_f1() -> None:
    assert scores(("Other", "Other")).values["relation_f1_macro"] == 0.0
    assert scores().values["relation_f1_micro"] == 0.0


def test_without_a_negative_label_every_label_counts() -> None:
    pairs = (("works_for", "works_for"), ("none", "none"), ("none", "works_for"))
    assert scores(*pairs, negative=None).values["relation_f1_micro"] == pytest.approx(2 / 3)
    assert scores(*pairs, negative="none").values["relation_f1_micro"] == pytest.approx(2 / 3)
    assert scores(*pairs, negative="none").values["relation_f1_macro"] == pytest.approx(2 / 3)
    assert scores(*pairs, negative=None).values["relation_f1_macro"] == pytest.approx(2 / 3)
    three = (*pairs, ("none", "none"))
    assert scores(*three, negative=None).values["relation_f1_macro"] == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_the_chart_has_the_f1_of_pairs_so_far_apart() -> None:
    metric = Relations()
    for distance, answer in ((0, "A"), (0, "A"), (4, "B"), (30, "A")):
        metric.update({"label": "A", "negative": None, "distance": distance}, answer)
    (chart,) = metric.compute().charts
    assert chart.series[0].points == (("0", 1.0), ("3-5", 0.0), ("more", 1.0))

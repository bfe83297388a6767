"""Entities and relations end to end, counted by hand."""

from __future__ import annotations

import pytest

from chainft.metrics.extraction import Extraction
from chainft.text.pairs import Fact, Place

ADA, ACME, ROME, BEN = Place(0, 3, "per"), Place(10, 14, "org"), Place(20, 24, "loc"), Place(30, 33, "per")


def test_settings_differ_in_types_and_in_whose_entities_they_take() -> None:
    """Gold: works(Ada, Acme), lives(Ada, Rome), works(Ben, Acme). Ada is found as an org, Ben not at all."""
    wrong = Place(0, 3, "org")
    gold = [Fact(ADA, ACME, "works"), Fact(ADA, ROME, "lives"), Fact(BEN, ACME, "works")]
    predicted = [Fact(wrong, ACME, "works"), Fact(wrong, ROME, "works"), Fact(ACME, ROME, "based")]
    metric = Extraction()
    metric.update(
        {"entities": [ADA, ACME, ROME, BEN], "relations": gold},
        {"entities": [wrong, ACME, ROME], "relations": predicted, "given": gold[:2]},
    )
    metric.update({"entities": [ADA], "relations": []}, {"entities": [ADA], "relations": [], "given": []})
    values = metric.compute().values
    assert values["entity_precision"] == pytest.approx(3 / 4)
    assert values["entity_recall"] == pytest.approx(3 / 5)
    assert values["entity_f1"] == pytest.approx(6 / 9)
    assert values["relation_strict_f1_micro"] == 0.0
    assert values["relation_boundaries_precision_micro"] == pytest.approx(1 / 3)
    assert values["relation_boundaries_recall_micro"] == pytest.approx(1 / 3)
    # works: 1 right of 2 predicted and 2 gold; lives: 0 of 0 and 1; based: 0 of 1 and 0.
    assert values["relation_boundaries_f1_macro"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert values["relation_given_entities_recall_micro"] == pytest.approx(2 / 3)
    assert values["relation_given_entities_precision_micro"] == 1.0
    assert values["relation_given_entities_f1_macro"] == pytest.approx((2 / 3 + 1) / 2)


def test_a_wrong_direction_is_wrong_in_every_setting() -> None:
    metric = Extraction()
    gold, turned = [Fact(ADA, BEN, "leads")], [Fact(BEN, ADA, "leads")]
    entities = {"entities": [ADA, BEN]}
    metric.update(entities | {"relations": gold}, entities | {"relations": turned, "given": turned})
    values = metric.compute().values
    assert values["entity_f1"] == 1.0
    assert {value for name, value in values.items() if name.startswith("relation")} == {0.0}


def test_no_examples_have_scores() -> None:
    scores = Extraction().compute()
    assert set(scores.values.values()) == {0.0} and scores.tables[0].rows == ()
    assert scores.meanings.keys() == scores.values.keys()


def test_entities_are_counted_as_seqeval_counts_them() -> None:
    """B-A I-A O B-B | gold, B-A O O B-A | predicted, and one sentence that is right."""
    seqeval = pytest.importorskip("seqeval.metrics")
    gold, found = [["B-A", "I-A", "O", "B-B"], ["B-A"]], [["B-A", "O", "O", "B-A"], ["B-A"]]
    metric = Extraction()
    metric.update(
        {"entities": [Place(0, 2, "A"), Place(3, 4, "B")], "relations": []},
        {"entities": [Place(0, 1, "A"), Place(3, 4, "A")], "relations": [], "given": []},
    )
    metric.update(
        {"entities": [Place(0, 1, "A")], "relations": []},
        {"entities": [Place(0, 1, "A")], "relations": [], "given": []},
    )
    assert metric.compute().values["entity_f1"] == pytest.approx(seqeval.f1_score(gold, found))

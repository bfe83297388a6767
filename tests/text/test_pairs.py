"""Which pairs of entities are asked, their labels, and relations as they are counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chainft.text.annotations import Link
from chainft.text.pairs import PairRule, answer, facts_of_answers, facts_of_links, labels_of_pairs
from chainft.text.relations import Entity

TEXT = "Ada met Ben of Acme and Bolt in Rome"
ADA, BEN, ACME, BOLT, ROME = (
    Entity(0, 3, "per"),
    Entity(8, 11, "per"),
    Entity(15, 19, "org"),
    Entity(24, 28, "org"),
    Entity(32, 36, "loc"),
)
ALL = (ADA, BEN, ACME, BOLT, ROME)


def rule(**changes: object) -> PairRule:
    return PairRule(**{"type_pairs": None, "max_distance": None, "max_pairs": 99} | changes)  # type: ignore[arg-type]


def test_pairs_are_of_types_that_go_together_and_near() -> None:
    assert len(rule().pairs(TEXT, ALL)) == 10
    seen = rule(type_pairs=frozenset([("org", "per")]))
    assert seen.pairs(TEXT, ALL) == [(0, 2), (0, 3), (1, 2), (1, 3)]
    assert rule(max_distance=1).pairs(TEXT, ALL) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert rule(max_distance=0).pairs(TEXT, ALL) == []
    assert rule(type_pairs=frozenset([("org", "per")]), max_pairs=2).pairs(TEXT, ALL) == [(1, 2), (0, 2)][::-1]


@given(st.permutations(ALL), st.integers(1, 10), st.none() | st.integers(0, 8))
def test_the_order_of_entities_in_the_data_changes_no_pair(
    order: list[Entity], most: int, distance: int | None
) -> None:
    chosen = rule(max_pairs=most, max_distance=distance)
    pairs = {(order[first], order[second]) for first, second in chosen.pairs(TEXT, order)}
    assert all(first.start < second.start for first, second in pairs) and len(pairs) <= most
    assert pairs == {(ALL[first], ALL[second]) for first, second in chosen.pairs(TEXT, ALL)}


def test_labels_say_from_which_of_the_two_the_relation_goes() -> None:
    links = [Link(2, 0, "pays"), Link(1, 2, "works_for"), Link(3, 2, "rival"), Link(0, 2, "left")]
    found = labels_of_pairs(links, ALL, ["rival"])
    assert found == {(0, 2): "pays(e2,e1)", (1, 2): "works_for(e1,e2)", (2, 3): "rival"}  # The first of a pair stays.


def test_a_relation_comes_back_as_it_was_written() -> None:
    links = [Link(2, 0, "pays"), Link(1, 2, "works_for"), Link(3, 2, "rival")]
    labels = labels_of_pairs(links, ALL, ["rival"])
    answers = [answer(TEXT, (ALL[first], ALL[second]), label, 0.5) for (first, second), label in labels.items()]
    assert set(facts_of_answers(answers)) == set(facts_of_links(links, ALL, ["rival"]))
    pays = answers[0]
    assert (pays["head"]["text"], pays["tail"]["text"], pays["direction"]) == ("Acme", "Ada", "head->tail")
    assert answers[2]["direction"] is None and answers[2]["head"]["text"] == "Acme"

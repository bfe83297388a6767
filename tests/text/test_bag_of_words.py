"""Classifiers by words alone: what they learn, and when there is nothing to learn."""

from __future__ import annotations

import pytest

from chainft.tasks.classify import Classify, ClassifyConfig
from chainft.text.bag_of_words import bag_of_words, bags_of_words
from chainft.text.inputs import text_example

TEXTS = ["good city", "good house", "bad city", "bad house"] * 3


def test_one_label_follows_the_words() -> None:
    learned = bag_of_words(TEXTS, ["yes", "yes", "no", "no"] * 3)
    assert learned is not None
    assert learned(["a good river", "a bad river"]) == ["yes", "no"]


def test_any_number_of_labels_follows_the_words() -> None:
    labels = [["all", "place", "praise"], ["all", "praise"], ["all", "place"], ["all"]] * 3
    learned = bags_of_words(TEXTS, labels)
    assert learned is not None
    assert learned(["good city", "bad house"]) == [["all", "place", "praise"], ["all"]]


@pytest.mark.parametrize(("texts", "labels"), [(["a", "b"], ["x", "x"]), (["?", "!"], ["x", "y"])])
def test_one_label_or_no_word_is_nothing_to_learn(texts: list[str], labels: list[str]) -> None:
    assert bag_of_words(texts, labels) is None
    assert bags_of_words(texts, [[label] if len(set(labels)) > 1 else [] for label in labels]) is None


def test_pairs_are_told_by_what_both_texts_have() -> None:
    """Same words or not: no single text shows it, so the second text alone is at a loss."""
    words = ["city", "house", "river", "report"]
    train = [
        text_example({"text": one, "text_pair": other, "label": "same" if one == other else "other"}, "x:1")
        for one in words
        for other in [*words, one, one]
    ]
    found = Classify(ClassifyConfig()).baselines(train)
    assert found.keys() == {"majority", "bag_of_words", "second_text_only"}
    right = {name: sum(answer(one) == one.values["label"] for one in train) for name, answer in found.items()}
    assert right["bag_of_words"] == len(train)
    assert right["second_text_only"] < len(train)

"""Entities change places with others of their type; everything else stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from chainft.augmentations.mix import Mix, MixConfig, entities_by_type
from chainft.data.example import Example
from chainft.errors import ConfigError
from chainft.tasks.classify import Classify, ClassifyConfig
from chainft.tasks.ner import Ner, NerConfig
from chainft.text.inputs import text_example
from chainft.text.schemes import spans_of, violations

ROWS = [
    ("Ada met Grace Hopper in Paris .", "B-PER O B-PER I-PER O B-LOC O"),
    ("Oslo is far from New York City", "S-LOC O O O B-LOC I-LOC E-LOC"),
    ("nothing here", "O O"),
    ("Siemens pays", "B-ORG O"),
]


def sentences() -> list[Example]:
    return [text_example({"tokens": a.split(), "tags": b.split()}, f"t:{n}") for n, (a, b) in enumerate(ROWS, start=1)]


def made(**settings: Any) -> list[Any]:
    return list(Mix(MixConfig(**settings), Ner(NerConfig())).make(sentences(), progress=lambda done, total: None))


def outside(values: Mapping[str, Any]) -> list[str]:
    return [word for word, tag in zip(values["tokens"], values["tags"], strict=True) if tag == "O"]


def test_every_entity_becomes_another_of_its_type_and_the_rest_stays() -> None:
    pools = entities_by_type(sentences())
    for one in made(share=1.0, num_copies=5):
        assert one.source is not None
        before, after = one.source.values, one.values
        assert outside(before) == outside(after)
        assert violations(after["tags"], "iob2") == []
        old, new = spans_of(before["tags"]), spans_of(after["tags"])
        assert [span.type for span in old] == [span.type for span in new]
        for was, now in zip(old, new, strict=True):
            words = tuple(after["tokens"][now.start : now.end])
            assert words in pools[now.type]
            assert words != tuple(before["tokens"][was.start : was.end])


def test_what_has_no_other_entity_makes_nothing() -> None:
    sources = {one.source.where() for one in made(share=1.0, num_copies=3)}
    assert sources == {"t:1", "t:2"}  # The only ORG has no other; the third sentence has none at all.


def test_each_change_is_told() -> None:
    for one in made(share=1.0):
        text = " ".join(one.values["tokens"])
        assert all(change["to"] in text and change["from"] != change["to"] for change in one.facts["entities"])


def test_the_share_says_how_many_are_exchanged() -> None:
    found = made(share=0.3, num_copies=200)
    exchanged = sum(len(one.facts["entities"]) for one in found)
    assert 0.2 < exchanged / (200 * 5) < 0.4  # five entities have another of their type


def test_the_same_seed_makes_the_same_and_another_does_not() -> None:
    texts = [[one.values["tokens"] for one in made(num_copies=4, seed=seed)] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_examples_without_entities_are_refused() -> None:
    with pytest.raises(ConfigError, match="mix makes no examples of task 'classify'"):
        Mix(MixConfig(), Classify(ClassifyConfig()))

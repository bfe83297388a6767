"""A masked language model finds other words; entities, labels and all that is no word stay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from chainft.augmentations.base import Made
from chainft.augmentations.mask import Mask, MaskConfig, _pieces
from chainft.data.example import Example
from chainft.errors import ConfigError, ModelError
from chainft.tasks.base import Task
from chainft.tasks.classify import Classify, ClassifyConfig
from chainft.tasks.generate import Generate, GenerateConfig
from chainft.tasks.ner import Ner, NerConfig
from chainft.text.inputs import text_example


@pytest.fixture(scope="module")
def masked(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with the head of a masked language model."""
    import torch
    from transformers import AutoConfig, AutoTokenizer, BertForMaskedLM

    folder = tmp_path_factory.mktemp("masked")
    torch.manual_seed(1)
    BertForMaskedLM(AutoConfig.from_pretrained(tiny_encoder)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder)
    return folder


def make(task: Task, examples: Sequence[Example], folder: Path, **settings: Any) -> list[Made]:
    return list(
        Mask(MaskConfig(model=str(folder), **settings), task).make(examples, progress=lambda done, total: None)
    )


def test_tagged_words_keep_entities_and_places(masked: Path) -> None:
    words, tags = (
        ["anna", "visited", "the", "old", "acme", "house", "in", "oslo"],
        ["B-PER", "O", "O", "O", "B-ORG", "O", "O", "B-LOC"],
    )
    found = make(Ner(NerConfig()), [text_example({"tokens": words, "tags": tags}, "t:1")], masked, share=1.0)
    assert len(found) == 1
    new = found[0].values["tokens"]
    assert found[0].values["tags"] == tags
    changed = [place for place, (one, other) in enumerate(zip(words, new, strict=True)) if one != other]
    assert changed == [1, 2, 3, 5, 6]
    assert all(word.isalpha() for word in new)


def test_texts_keep_what_is_no_word_and_their_label(masked: Path) -> None:
    text = "Anna visited:  the OLD house, 7 times!"
    example = text_example({"text": text, "label": "good"}, "t:1")
    found = make(Classify(ClassifyConfig()), [example], masked, share=1.0, num_copies=3)
    assert len(found) == 3
    for one in found:
        assert one.values["label"] == "good"
        between = [piece for piece in _pieces(one.values["text"])[::2]]
        assert between == ["", " ", ":  ", " ", " ", ", 7 ", "!"]
        assert one.values["text"][0].isupper()
        for change in one.facts["words"]:
            assert change["from"].casefold() != change["to"].casefold()
            if len(change["to"]) > 1:
                assert change["to"].isupper() == change["from"].isupper()


def test_batches_change_nothing(masked: Path) -> None:
    examples = [
        text_example({"text": f"{word} visited the old house", "label": "x"}, "t:1") for word in ("anna", "ben")
    ]
    task = Classify(ClassifyConfig())
    one, many = (make(task, examples, masked, batch_size=size, num_copies=2) for size in (1, 4))
    assert [made.values for made in one] == [made.values for made in many]


def test_a_text_without_words_makes_nothing(masked: Path) -> None:
    assert make(Classify(ClassifyConfig()), [text_example({"text": "12, 34!", "label": "x"}, "t:1")], masked) == []


def test_a_model_without_the_head_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="no head of a masked language model"):
        make(Classify(ClassifyConfig()), [text_example({"text": "anna", "label": "x"}, "t:1")], tiny_encoder)


def test_tasks_whose_answers_would_change_are_refused() -> None:
    with pytest.raises(ConfigError, match="mask makes no examples of task 'generate'"):
        Mask(MaskConfig(model="any"), Generate(GenerateConfig()))

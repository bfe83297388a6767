"""Words, their sub-words and their places, for every kind of fast tokenizer."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPT2Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, RobertaTokenizer

from chainft.data.example import Example, Origin
from chainft.tasks.ner import Ner, NerConfig
from chainft.text.align import encode_text, encode_words, lone_surrogate, needs_spaces, shortened
from chainft.text.schemes import Span, tags_of

CORPUS = [
    "the old river in paris , near oslo .",
    "anna's cafe cost 12 euros !",
    "naïve señor emil bought acme yesterday",
] * 4
KINDS = ("word-piece", "byte-level", "byte-level with prefix", "unigram", "metaspace bpe")
ODD = [
    "👩‍👩‍👧",
    "🇳🇴",
    "e\u0301le\u0300ve",
    "\u200b",
    "\u200d",
    "a\u200bb",
    "\u0301",
    "日本",
    "İstanbul",
    "",
    "ﬁ",
    "\ufeffx",
    "n\xa0o",
    "…",
    "don't",
    "U.S.",
    "[SEP]",
]
WORDS = st.lists(st.one_of(st.sampled_from([*" ".join(CORPUS).split(), *ODD]), st.text(max_size=6)), max_size=14)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerBase:
    """A tokenizer of the kind, trained on the corpus."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer: Any
    if kind == "word-piece":
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    elif kind.startswith("byte-level"):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space="prefix" in kind)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\u200b", "")])
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=90, special_tokens=special, unk_token="[UNK]", show_progress=False
        )
    else:
        backend = Tokenizer(models.BPE(unk_token="[UNK]", byte_fallback=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    build: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerBase = build(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    return tokenizer


@cache
def task_of(kind: str, max_length: int) -> Ner:
    task = Ner(NerConfig())
    task.labels.names = ("O", "B-A", "I-A", "B-B", "I-B")
    task.prepare(tokenizer_of(kind), max_length=max_length)
    return task


def gold_raw(windows: list[dict[str, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """What a perfect model finds: the gold label of every owned word."""
    found = []
    for window in windows:
        labels = window["labels"][window["word_ids"] >= 0]
        found.append((labels, np.ones(len(labels))))
    return found


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(words=WORDS, data=st.data())
def test_perfect_predictions_decode_to_gold(kind: str, words: list[str], data: st.DataObject) -> None:
    """fault 12: decode(align(x)) == gold for every word that has a sub-word, the others count as outside."""
    max_length = data.draw(st.sampled_from([4, 7, 12, 64]))
    task = task_of(kind, max_length)
    tags = data.draw(st.lists(st.sampled_from(["O", "B-A", "B-B"]), min_size=len(words), max_size=len(words)))
    sound = Example({"tokens": words, "tags": tags}, Origin("file", 1))
    if list(task.validate(sound)):
        assert any(lone_surrogate(word) is not None for word in words)
        return
    windows = task.encode(sound)
    answer = task.decode(sound, windows, gold_raw(windows))
    has_place = encode_words(task.tokenizer, words, spaces=needs_spaces(task.tokenizer)).lengths > 0
    assert answer["tags"] == [tag if there else "O" for tag, there in zip(tags, has_place, strict=True)]
    assert all(len(window["input_ids"]) <= max_length for window in windows)


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(words=WORDS, max_length=st.sampled_from([4, 7, 12]))
def test_every_word_is_owned_exactly_once(kind: str, words: list[str], max_length: int) -> None:
    """fault 13: over-long sentences lose no word, whatever the window."""
    words = [word for word in words if lone_surrogate(word) is None]
    task = task_of(kind, max_length)
    sentence = Example({"tokens": words}, Origin("file", 1))
    owned = [int(word) for window in task.encode(sentence) for word in window["word_ids"] if word >= 0]
    lengths = encode_words(task.tokenizer, words, spaces=needs_spaces(task.tokenizer)).lengths
    assert owned == [word for word in range(len(words)) if lengths[word] > 0]


@pytest.mark.parametrize("kind", KINDS)
def test_visible_words_have_a_place(kind: str) -> None:
    """fault 12: emoji, combined letters, Chinese: only what has nothing to see may lack sub-words."""
    words = ["👩‍👩‍👧", "e\u0301le\u0300ve", "日本", "İstanbul", "a\u200bb", "anna", "."]
    tokenizer = tokenizer_of(kind)
    assert (encode_words(tokenizer, words, spaces=needs_spaces(tokenizer)).lengths > 0).all()


def test_word_without_sub_words_has_no_place() -> None:
    """fault 12: word -> zero sub-words."""
    found = encode_words(tokenizer_of("word-piece"), ["anna", "\u200b", "oslo"], spaces=False)
    assert found.lengths[1] == 0
    assert found.lengths[0] > 0 < found.lengths[2]


@pytest.mark.parametrize("kind", KINDS)
def test_words_become_the_tokens_that_they_are_in_a_text(kind: str) -> None:
    """fault 12: leading-space tokenizers; training on words must fit prediction on text."""
    tokenizer = tokenizer_of(kind)
    words = ["the", "old", "river", "in", "paris", "near", "oslo"]
    whole = tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
    assert encode_words(tokenizer, words, spaces=needs_spaces(tokenizer)).ids.tolist() == whole


@pytest.mark.parametrize("kind", KINDS)
@quick
@given(text=st.one_of(st.text(max_size=30), WORDS.map(" ".join)))
@example(text="  anna  👩‍👩‍👧 \n oslo. ")
@example(text="e\u0301le\u0300ve \u0301")
def test_words_of_a_text_have_places_in_order(kind: str, text: str) -> None:
    """fault 12: places are characters of the original text, apart from each other, without white space around."""
    if lone_surrogate(text) is not None:
        return
    found = encode_text(tokenizer_of(kind), text)
    assert len(found.spans) == found.num_words
    assert (found.lengths > 0).all()
    for start, end in found.spans:
        assert start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
    for left, right in pairwise(found.spans):
        assert left[1] <= right[0] or left == right


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_a_text_are_found_where_they_are(kind: str) -> None:
    text = " anna  bought\tthe river "
    found = encode_text(tokenizer_of(kind), text)
    assert [text[start:end] for start, end in found.spans] == ["anna", "bought", "the", "river"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_empty_text_has_no_windows_and_no_entities(kind: str, text: str) -> None:
    task = task_of(kind, 12)
    nothing = Example({"text": text}, Origin("stdin", 1))
    assert task.encode(nothing) == []
    assert task.decode(nothing, [], []) == {"text": text, "entities": [], "tags": [], "tokens": []}


@pytest.mark.parametrize("family", [GPT2Tokenizer, RobertaTokenizer])
def test_byte_level_families_of_transformers_take_words(family: Any, tmp_path: Path) -> None:
    """fault 12: GPT-2 and RoBERTa are published without a prefix space, which their classes may refuse for words."""
    backend = json.loads(tokenizer_of("byte-level").backend_tokenizer.to_str())["model"]
    vocabulary = backend["vocab"] | {"<s>": 1000, "</s>": 1001, "<pad>": 1002, "<unk>": 1003, "<mask>": 1004}
    merges = [tuple(pair) for pair in backend["merges"]]
    tokenizer = family(vocab=vocabulary, merges=merges)
    words = ["the", "old", "river", "in", "paris"]
    whole = tokenizer("the old river in paris", add_special_tokens=False)["input_ids"]
    assert encode_words(tokenizer, words, spaces=needs_spaces(tokenizer)).ids.tolist() == whole


def test_word_longer_than_a_window_keeps_its_first_sub_words() -> None:
    """fault 13: the word itself is not lost, only the rest of its sub-words."""
    words = encode_words(tokenizer_of("word-piece"), ["anna", "rivers" * 6, "oslo"], spaces=False)
    cut = shortened(words, 3)
    assert cut.lengths.tolist() == [min(3, length) for length in words.lengths]
    assert cut.ids[cut.first[1] :][:3].tolist() == words.ids[words.first[1] :][:3].tolist()


@pytest.mark.parametrize(("text", "place"), [("plain", None), ("é😀", None), ("a\ud83d", 1)])
def test_lone_surrogate_is_found(text: str, place: int | None) -> None:
    assert lone_surrogate(text) == place


def test_gold_entities_survive_windows() -> None:
    """fault 13: an entity that crosses the border of two windows is whole again."""
    task = task_of("word-piece", 8)
    words = ["anna", "the", "old", "river", "in", "paris", "near", "oslo"] * 4
    tags = tags_of([Span(start, start + 4, "A") for start in range(2, 30, 6)], len(words))
    sentence = Example({"tokens": words, "tags": tags}, Origin("file", 1))
    windows = task.encode(sentence)
    assert len(windows) > 4
    assert task.decode(sentence, windows, gold_raw(windows))["tags"] == tags

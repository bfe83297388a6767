"""Words and their sub-words: which tokens a word becomes, and where in the original text it stands.

A word's target and prediction sit at its *first* sub-word. A word without any sub-word (a zero-width space, a lone
combining mark, for some tokenizers) has no place: it gets no target and counts as outside. Nothing here truncates:
over-long sequences become windows (`chainft.text.windows`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SURROGATE = re.compile("[\ud800-\udfff]")
_PROBES = ("an apple", "the old river", "1 2")


@dataclass(frozen=True)
class SubWords:
    """The tokens of a sequence of words, without special tokens."""

    ids: np.ndarray
    """(tokens,) int32 token ids of all words in order."""
    first: np.ndarray
    """(words + 1,) int32; the tokens of word i are `ids[first[i]:first[i + 1]]`."""
    spans: tuple[tuple[int, int], ...] = ()
    """Of a raw text: `[start, end)` of each word in characters of the original text."""

    @property
    def num_words(self) -> int:
        return len(self.first) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(words,) how many sub-words each word has."""
        lengths: np.ndarray = self.first[1:] - self.first[:-1]
        return lengths


def needs_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether words given one by one must carry the space before them to become the tokens that they are in a text.

    So it is for byte-level tokenizers without `add_prefix_space` (GPT-2, RoBERTa): there `apple` and ` apple` are
    different tokens. Found by trying, since tokenizers of one class differ.
    """
    for text in _PROBES:
        joined = _ids(tokenizer, text)
        words = text.split(" ")
        if joined == _word_ids(tokenizer, words):
            continue
        return joined == _word_ids(tokenizer, _with_spaces(words))
    return False


def encode_words(tokenizer: PreTrainedTokenizerBase, words: Sequence[str], *, spaces: bool) -> SubWords:
    """The sub-words of words that are already split; `spaces` is what `needs_spaces` found."""
    if not words:
        return SubWords(np.zeros(0, np.int32), np.zeros(1, np.int32))
    encoded = tokenizer(
        _with_spaces(words) if spaces else list(words),
        is_split_into_words=True,
        add_special_tokens=False,
        truncation=False,
        padding=False,
        verbose=False,
    )
    counts = np.zeros(len(words) + 1, np.int32)
    for word in encoded.word_ids():
        counts[word + 1] += 1
    return SubWords(np.array(encoded["input_ids"], np.int32), np.cumsum(counts, dtype=np.int32))


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> SubWords:
    """The words of a raw text as the tokenizer's own pre-tokenizer sees them, with their places in `text`.

    A word ends where the pre-tokenizer ends it and at white space (some tokenizers do not split at all). Places
    leave out white space around a word and take in the combining marks that follow it, which normalisers drop.
    """
    encoded = tokenizer(
        text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, padding=False, verbose=False
    )
    kept: list[int] = []
    first: list[int] = []
    spans: list[tuple[int, int]] = []
    for tokens, (start, end) in _groups(text, encoded.word_ids(), encoded["offset_mapping"]):
        first.append(len(kept))
        spans.append((start, _with_marks(text, end)))
        kept.extend(tokens)
    ids = np.array(encoded["input_ids"], np.int32)
    return SubWords(ids[np.array(kept, np.int64)], np.array([*first, len(kept)], np.int32), tuple(spans))


def shortened(words: SubWords, most: int) -> SubWords:
    """The same words with at most `most` sub-words each, the first ones."""
    lengths = words.lengths
    if not len(lengths) or int(lengths.max()) <= most:
        return words
    place = np.arange(len(words.ids)) - np.repeat(words.first[:-1], lengths)  # (tokens,) number inside the word
    first = np.concatenate([[0], np.cumsum(np.minimum(lengths, most))]).astype(np.int32)
    return SubWords(words.ids[place < most], first, words.spans)


def lone_surrogate(text: str) -> int | None:
    """Place of the first half of a surrogate pair, which no tokenizer and no UTF-8 file takes; None if there is none."""
    found = _SURROGATE.search(text)
    return found.start() if found else None


def _groups(
    text: str, word_ids: Sequence[int | None], offsets: Sequence[tuple[int, int]]
) -> list[tuple[list[int], tuple[int, int]]]:
    """Token numbers of each word and its place without the white space around it; no words of white space alone."""
    groups: list[tuple[list[int], tuple[int, int]]] = []
    last: int | None = None
    for number, (word, place) in enumerate(zip(word_ids, offsets, strict=True)):
        if groups and _goes_on(text, groups[-1][1], place, same=word == last):
            tokens, (start, end) = groups[-1]
            groups[-1] = ([*tokens, number], (min(start, place[0]), max(end, place[1])))
        else:
            groups.append(([number], place))
        last = word
    stripped = [(tokens, _stripped(text, *place)) for tokens, place in groups]
    return [(tokens, place) for tokens, place in stripped if place[0] < place[1]]


def _goes_on(text: str, word: tuple[int, int], token: tuple[int, int], *, same: bool) -> bool:
    """Whether a token goes on the word at `word`; `same`: the pre-tokenizer says so."""
    if not same:
        # Byte-level pre-tokenizers take a combining mark apart from its letter.
        return (
            token[0] == word[1] and _is_mark(text[token[0] : token[0] + 1]) and text[word[0] : word[1]].strip() != ""
        )
    # A piece that is only the mark of a space belongs to the word after it.
    gap = text[word[1] : token[0]] + text[token[0] : token[1]][:1]
    return not any(character.isspace() for character in gap) or not text[word[0] : word[1]].strip()


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return start, end


def _with_marks(text: str, end: int) -> int:
    while end < len(text) and _is_mark(text[end]):
        end += 1
    return end


def _is_mark(character: str) -> bool:
    return character != "" and unicodedata.category(character).startswith("M")


def _with_spaces(words: Sequence[str]) -> list[str]:
    return [word if number == 0 else f" {word}" for number, word in enumerate(words)]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    encoded = tokenizer(text, add_special_tokens=False, truncation=False, padding=False, verbose=False)
    return [int(token) for token in encoded["input_ids"]]


def _word_ids(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> list[int]:
    return [int(token) for token in encode_words(tokenizer, words, spaces=False).ids]

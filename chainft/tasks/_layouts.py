"""Where source and target of an example stand: one after the other in a decoder, or apart in an encoder-decoder.

Labels are aligned here: the label at a place is the token that the logits of that place predict. In a decoder that is
the next token of its own sequence; a decoder that reads an encoder has a sequence of its own, and its labels are the
target itself, since its input is the target shifted by one. Shapes: B batch, S source, T target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from chainft.tasks.base import Arrays

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


class Layout(ABC):
    """One of the two ways. `max_length` counts the tokens of a sequence."""

    name: ClassVar[str]
    auto_class: ClassVar[str]
    closed: ClassVar[bool]
    """Whether the source is a sequence of its own, with all special tokens of the tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length

    @property
    @abstractmethod
    def most_new_tokens(self) -> int:
        """The most that `task.max_new_tokens` may be."""

    @abstractmethod
    def target(self, text: str) -> list[int]:
        """The tokens of a target with its end."""

    @abstractmethod
    def excess(self, num_source: int, num_target: int, max_new_tokens: int) -> int:
        """How many tokens the source must lose: room is kept for the target and for an answer that is generated."""

    @abstractmethod
    def feature(self, source: Sequence[int], target: Sequence[int] | None) -> Arrays:
        """`input_ids` and, with a target, `labels`."""


class DecoderOnly(Layout):
    """The target follows the source."""

    name: ClassVar[str] = "decoder"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    closed: ClassVar[bool] = False

    @property
    def most_new_tokens(self) -> int:
        return self.max_length - 1

    def target(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id]

    def excess(self, num_source: int, num_target: int, max_new_tokens: int) -> int:
        return max(0, num_source + max(num_target, max_new_tokens) - self.max_length)

    def feature(self, source: Sequence[int], target: Sequence[int] | None) -> Arrays:
        ids = np.array([*source, *(target or ())], dtype=np.int32)
        if target is None:
            return {"input_ids": ids}
        labels = np.full(len(ids), IGNORED, dtype=np.int32)
        labels[len(source) - 1 : -1] = ids[len(source) :]
        return {"input_ids": ids, "labels": labels}


class EncoderDecoder(Layout):
    """Source and target are sequences of their own, each with the tokenizer's special tokens for it."""

    name: ClassVar[str] = "encoder-decoder"
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    closed: ClassVar[bool] = True

    @property
    def most_new_tokens(self) -> int:
        return self.max_length

    def target(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text_target=text, verbose=False)["input_ids"])
        return ids if self._is_ended else [*ids, self.tokenizer.eos_token_id]

    @cached_property
    def _is_ended(self) -> bool:
        """Whether the tokenizer ends a target; the mark of a language may follow (mBART)."""
        empty = list(self.tokenizer(text_target="", verbose=False)["input_ids"])
        return self.tokenizer.eos_token_id in empty

    def excess(self, num_source: int, num_target: int, max_new_tokens: int) -> int:
        return max(0, num_source - self.max_length)

    def feature(self, source: Sequence[int], target: Sequence[int] | None) -> Arrays:
        feature = {"input_ids": np.array(source, dtype=np.int32)}
        return feature if target is None else {**feature, "labels": np.array(target, dtype=np.int32)}

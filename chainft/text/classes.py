"""Texts with classes: reading them, and the probabilities of windows joined to scores. Letters: W windows, C classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chainft.data.example import Example, Finding, Split
from chainft.errors import ConfigError, DataError, Problem
from chainft.tasks.base import Field
from chainft.text.fit import truncated, windows
from chainft.text.inputs import checked_text, take, text_example, text_problems

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

TEXT = Field("text", "text", aliases=("sentence", "content", "utterance", "review", "sentence1", "premise"))
TEXT_PAIR = Field("text_pair", "text", required=False, aliases=("sentence2", "hypothesis", "question2"))


def texts_of(example: Example) -> dict[str, str]:
    """The text, and the second one of a pair, by name: as a prediction repeats them."""
    return {name: example.values[name] for name in ("text", "text_pair") if example.values.get(name) is not None}


def shown(example: Example) -> str:
    """The texts on lines of their own."""
    return "\n".join(texts_of(example).values())


def check_texts(example: Example) -> Iterator[Problem]:
    """What is wrong with text and second text."""
    yield from text_problems(example.values.get("text"), "text", example.where())
    if example.values.get("text_pair") is not None:
        yield from text_problems(example.values["text_pair"], "text_pair", example.where())


def name_problems(label: object, where: str) -> Iterator[Problem]:
    """What keeps `label` from being the name of a class."""
    if isinstance(label, list | tuple):
        help = "for any number of labels a text set task.multi_label=true"
        yield Problem("several-labels", f"one label is wanted, got the list {label!r}", where, None, help)
    elif not isinstance(label, str) or not label.strip():
        help = "give each text a label, or leave such rows out by data.on_error=skip"
        yield Problem("no-label", f"the label {label!r} is not a name", where, help=help)


def read_texts(value: str | Mapping[str, Any], *, where: str) -> Example:
    """A line of text, or an object with the text and perhaps a second one; its other keys are not looked at."""
    if isinstance(value, str):
        return text_example({"text": checked_text(value, "the text", where=where)}, where)
    values = {"text": checked_text(take(value, (TEXT.name, *TEXT.aliases), where=where), "text", where=where)}
    for name in (TEXT_PAIR.name, *TEXT_PAIR.aliases):
        if value.get(name) is not None:
            values["text_pair"] = checked_text(value[name], name, where=where)
            break
    return text_example(values, where)


def words_of(example: Example) -> str:
    """The text for a bag of words; of a pair each word marked by whether the first text, the second or both have it.

    >>> from chainft.text.inputs import text_example
    >>> words_of(text_example({"text": "Anna runs", "text_pair": "anna sleeps"}, "x:1"))
    'both_anna first_runs second_sleeps'
    """
    texts = [re.findall(r"\w+", text.casefold()) for text in texts_of(example).values()]
    if len(texts) == 1:
        return str(example.values["text"])
    first, second = texts
    shared = set(first) & set(second)
    marked = [f"both_{word}" if word in shared else f"first_{word}" for word in first]
    return " ".join([*marked, *(f"second_{word}" for word in second if word not in shared)])


def softmax(logits: Sequence[np.ndarray], *, temperature: float = 1.0) -> np.ndarray:
    """(C,) probabilities that sum to 1, from the mean of (W, C) logits, divided by the temperature."""
    mean = np.mean(np.asarray(logits, dtype=np.float64), axis=0) / temperature
    shares = np.exp(mean - mean.max())
    return np.asarray(shares / shares.sum())


def sigmoid(logits: Sequence[np.ndarray]) -> np.ndarray:
    """(C,) probabilities that are each their own, from the mean of (W, C) logits."""
    mean = np.mean(np.asarray(logits, dtype=np.float64), axis=0)
    return np.asarray(0.5 * (1 + np.tanh(mean / 2)))  # tanh, because exp overflows.


def log(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms, which are logits up to a constant; of 0, to which small probabilities may be rounded, that of 1e-300."""
    return np.asarray(np.log(np.maximum(probabilities, 1e-300)))


def by_name(names: Sequence[str], probabilities: np.ndarray) -> dict[str, float]:
    """Probabilities by class, the largest first."""
    order = np.argsort(-probabilities, kind="stable")
    return {names[index]: float(probabilities[index]) for index in order}


@dataclass(frozen=True)
class Fitter:
    """Tokenises texts for a model that takes `limit` tokens; `overflow` and `overlap` as in the task's settings."""

    tokenizer: PreTrainedTokenizerBase
    limit: int
    overflow: Literal["window", "truncate", "error"]
    overlap: int

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        limit: int,
        *,
        overflow: Literal["window", "truncate", "error"],
        overlap: float,
    ) -> Fitter:
        """Raises ConfigError for an `overlap` (tokens, or a share of a window) above half of a window."""
        size = limit - tokenizer.num_special_tokens_to_add(pair=False)
        tokens = int(overlap * size) if isinstance(overlap, float) else int(overlap)
        if tokens > size // 2:
            raise ConfigError(
                f"task.window_overlap = {overlap} is more than half of a window, which holds {size} tokens of text",
                slug="out-of-range",
                key="task.window_overlap",
                help=f"give at most {size // 2} or 0.5, or raise model.max_length",
            )
        return cls(tokenizer, limit, overflow, tokens)

    def encode(self, example: Example) -> list[dict[str, np.ndarray]]:
        """`input_ids`, and `token_type_ids` where the tokenizer makes them, of each window; at least one."""
        tokens = self._tokens(example)
        names = [name for name in ("input_ids", "token_type_ids") if name in tokens]
        arrays = {name: np.array(tokens[name], dtype=np.int32) for name in names}
        kept = self._fitted(tokens.sequence_ids(0), example)
        return [{name: array[places] for name, array in arrays.items()} for places in kept]

    def num_tokens(self, example: Example) -> int:
        """Tokens of the whole text, or pair, with special tokens."""
        return len(self._tokens(example)["input_ids"])

    def findings(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        """How many texts `overflow: truncate` cuts."""
        if self.overflow != "truncate":
            return
        for split, examples in splits.items():
            cut = [example for example in examples if self.num_tokens(example) > self.limit]
            if cut:
                message = f"{split}: {len(cut)} of {len(examples)} texts lose what is beyond {self.limit} tokens"
                help = "task.overflow=window reads all of it"
                yield Finding("cut-text", "warning", message, cut[0].where(), help, len(cut))

    def _tokens(self, example: Example) -> BatchEncoding:
        """The whole text, or pair, with special tokens."""
        tokens: BatchEncoding = self.tokenizer(*texts_of(example).values(), truncation=False, verbose=False)
        if not tokens["input_ids"]:
            raise DataError("the text has no tokens", slug="no-tokens", where=example.where())
        return tokens

    def _fitted(self, sequence_ids: Sequence[int | None], example: Example) -> list[list[int]]:
        """Which tokens each window keeps."""
        over_long = len(sequence_ids) > self.limit
        if over_long and self.overflow == "truncate":
            return [truncated(sequence_ids, limit=self.limit)]
        found = None
        if not over_long or self.overflow == "window":
            found = windows(sequence_ids, limit=self.limit, overlap=self.overlap)
        if found is None:
            raise self._too_long(example, len(sequence_ids))
        return found

    def _too_long(self, example: Example, num_tokens: int) -> DataError:
        other = "truncate to lose the end" if self.overflow == "window" else "window to read it in parts"
        return DataError(
            f"{'the text' if len(texts_of(example)) == 1 else 'the pair of texts'} has {num_tokens} tokens, "
            f"the most is {self.limit}",
            slug="too-long",
            where=example.where(),
            help=f"raise model.max_length, or set task.overflow={other}",
        )

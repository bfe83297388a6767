"""Named entities, and tags of words in general: one tag a word, learned at the word's first sub-word.

Whatever scheme the data use, training and prediction are in IOB2. A sentence longer than the model reads becomes
overlapping windows; every word is owned by one of them, so none is lost and none counts twice.
Shapes: B windows, L tokens, C tags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from chainft.config.ranges import CountOrZero, FractionBelowOne, Positive
from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import ConfigError, DataError, Problem
from chainft.metrics.base import make_metrics
from chainft.tasks.base import About, Arrays, Baseline, Column, Field, Mark, Metric, Mistake, Prediction, Task
from chainft.text.align import SubWords, encode_text, encode_words, needs_spaces, shortened
from chainft.text.frame import find_frame
from chainft.text.inputs import checked_text, take, text_example
from chainft.text.labels import weights_of
from chainft.text.lexicon import Lexicon
from chainft.text.schemes import Detected, spans_of
from chainft.text.tagged import (
    check_scheme,
    check_sentence,
    check_words,
    detect_scheme,
    entities_of,
    fill_unseen,
    iob2,
    joined,
    learn_tags,
    other_scheme,
    scheme_finding,
    split_findings,
)
from chainft.text.windows import cut_windows

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from chainft.data.batching import Batch

DEFAULT_OVERLAP = 64
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class NerConfig(TaskConfig):
    """One tag a word."""

    name: str = "ner"
    scheme: Literal["auto", "iob1", "iob2", "bioes", "bilou", "io"] = "auto"
    """Tagging scheme of the data; auto: found from all tags. The model always learns iob2."""
    overlap: CountOrZero | None = None
    """Most tokens that two windows of an over-long sentence share; default 64, at most a quarter of a window."""
    label_smoothing: FractionBelowOne = 0.0
    """Share of the target that is spread evenly over all tags."""
    class_weights: Literal["balanced"] | Mapping[str, Positive] | None = None
    """Weight of each tag in the loss: null (all 1), balanced (rare ones more), or numbers such as `{B-PER: 2}`."""
    metrics: tuple[str, ...] = ("entities", "tokens")
    """What evaluation counts."""


class Ner(Task):
    """Tags of words. `fields` are what data hold; prediction also takes a raw `text`."""

    config_class: ClassVar[type[TaskConfig]] = NerConfig
    fields: ClassVar[tuple[Field, ...]] = (
        Field("tokens", "texts", aliases=("words", "token")),
        Field("tags", "tags", aliases=("ner_tags", "labels", "tag"), gold=True),
    )
    features: ClassVar[Mapping[str, Column]] = {
        "input_ids": Column("pad_token", model_input=True),
        "token_type_ids": Column(0, model_input=True),
        "word_ids": Column(-1),
        "labels": Column(IGNORED),
    }
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    main_metric: ClassVar[str] = "entity_f1"
    metric_family: ClassVar[str] = "tags"
    about: ClassVar[About] = About(
        "Named entity recognition",
        purpose="finds named entities in text",
        sample="Angela Merkel met engineers from Siemens in Berlin.",
        pipeline="token-classification",
    )
    config: NerConfig

    def __init__(self, config: NerConfig) -> None:
        super().__init__(config)
        self.metrics()  # A wrong name is found before any data are read.
        self._detected: Detected | None = None
        self._label_ids: dict[str, int] = {}

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        """With `scheme: auto`, steps between tags are checked once all are known (`learn_labels`)."""
        yield from check_sentence(example, None if self.config.scheme == "auto" else self.config.scheme)

    def common_cause(self, split: Split, sound: Sequence[Example], refused: Sequence[Example]) -> Problem | None:
        """A split that is in another scheme as a whole than the one that is set."""
        told = [found for row in refused for found in self.validate(row)]
        if self.config.scheme == "auto" or any(found.slug != "illegal-tag" for found in told):
            return None
        other = other_scheme(split, [*sound, *refused], self.config.scheme)
        return other and replace(other, where=told[0].where)

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        """Raises DataError for tags that their scheme forbids, with the repair, and for tags that train lacks."""
        self._detected = self._scheme(splits)
        check_scheme(splits, self._detected)
        self.labels = learn_tags(splits, unseen=unseen)

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        yield scheme_finding(self._detected or self._scheme(splits))
        yield from split_findings(splits)

    # Features -----------------------------------------------------------------------------------

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Raises ConfigError for an overlap or class weights that do not fit tokenizer and tags."""
        super().prepare(tokenizer, max_length=max_length)
        self._frame = find_frame(tokenizer)
        self._spaces = needs_spaces(tokenizer)
        self._capacity = max_length - self._frame.num_special
        self._overlap = self._checked_overlap()
        self._label_ids = self.labels.id_of()
        if self.labels.names:
            self._weights  # noqa: B018  A name that is no tag is found now.

    def encode(self, example: Example) -> list[Arrays]:
        """Windows with at least one word that they own; none for an empty text.

        Of a word longer than a window, the first sub-words are kept. For a raw text the windows also hold
        `places`, start and end of each word, for `decode`.
        """
        words = shortened(self._sub_words(example), self._capacity)
        tags = self._tag_ids(example)
        extra: Arrays = {"places": np.array(words.spans, np.int64).reshape(-1)} if words.spans else {}
        features = []
        for window in cut_windows(words.lengths, self._capacity, overlap=self._overlap):
            begin, end = words.first[window.start], words.first[window.end]
            owned = np.arange(window.own_start, window.own_end)
            owned = owned[words.lengths[owned] > 0]
            if not len(owned):
                continue
            arrays = self._frame.around(words.ids[begin:end])
            places = len(self._frame.before.ids) + words.first[owned] - begin
            arrays["word_ids"] = _at(places, owned, len(arrays["input_ids"]), -1)
            if tags is not None:
                arrays["labels"] = _at(places, tags[owned], len(arrays["input_ids"]), IGNORED)
            features.append(arrays | extra)
        return features

    def num_tokens(self, example: Example) -> int:
        return int(sum(self._sub_words(example).lengths)) + self._frame.num_special

    # Model --------------------------------------------------------------------------------------

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Cross entropy of the tags of owned words; logits (B, L, C)."""
        from chainft.models.losses import token_cross_entropy_sum

        return token_cross_entropy_sum(
            output.logits,
            batch.targets["labels"],
            label_smoothing=self.config.label_smoothing,
            class_weights=self._weights_on(output.logits.device),
        )

    def num_targets(self, batch: Batch) -> float:
        """Words with a tag, or the sum of their class weights."""
        from chainft.models.losses import weight_sum

        labels = batch.targets["labels"]
        return weight_sum(labels, self._weights_on(labels.device))

    # Prediction ---------------------------------------------------------------------------------

    def raw(self, output: Any, batch: Batch) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """For each window: tag ids and probabilities of its owned words, (owned,) each."""
        probabilities, tags = output.logits.float().softmax(-1).max(-1)  # (B, L)
        owned = batch.targets["word_ids"].cpu().numpy() >= 0
        return [
            (ids[mask], values[mask])
            for ids, values, mask in zip(tags.cpu().numpy(), probabilities.cpu().numpy(), owned, strict=True)
        ]

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        text, words, places = self._words(example, windows)
        found: list[str | None] = [None] * len(words)
        probabilities: list[float | None] = [None] * len(words)
        for window, (ids, values) in zip(windows, raw, strict=True):
            owned = window["word_ids"][window["word_ids"] >= 0]
            for word, tag, value in zip(owned.tolist(), ids.tolist(), values.tolist(), strict=True):
                found[word], probabilities[word] = self.labels.names[tag], value
        tags = fill_unseen(found)
        return {
            "text": text,
            "entities": entities_of(tags, probabilities, text, places),
            "tags": tags,
            "tokens": words,
        }

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A line of text, or an object with `tokens` (a list of words) or `text`; other fields are not looked at."""
        values = {"text": value} if isinstance(value, str) else value
        names = [name for name in ("tokens", *self.fields[0].aliases) if name in values]
        found = take(values, names or ("text", "tokens"), where=where)
        if not names:
            return text_example({"text": checked_text(found, "text", where=where)}, where)
        if problems := list(check_words(found, where=lambda item: where)):
            raise DataError.of(problems)
        return text_example({"tokens": found}, where)

    # Scores -------------------------------------------------------------------------------------

    def gold(self, example: Example) -> list[str]:
        """All tags in IOB2: also of words that the tokenizer gives no place, which so count as missed."""
        return iob2(example)

    def predicted(self, prediction: Prediction) -> list[str]:
        return list(prediction["tags"])

    def metrics(self) -> list[Metric]:
        return make_metrics(self.config.metrics, self.metric_family)

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`lexicon`: the names of train, looked up."""
        lexicon = Lexicon((one.values["tokens"], one.values["tags"]) for one in train)
        return {"lexicon": lambda example: lexicon.tags(example.values["tokens"])}

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        """Worst is the sentence with most entities that are missed, wrong or made up."""
        text, places = joined(example.values["tokens"])
        gold, predicted = (_marks(tags, places) for tags in (self.gold(example), self.predicted(prediction)))
        wrong = set(gold) ^ set(predicted)
        if not wrong:
            return None
        return Mistake(float(len(wrong)), text, _named(gold, text), _named(predicted, text), gold, predicted)

    # Parts --------------------------------------------------------------------------------------

    def _scheme(self, splits: Mapping[Split, Sequence[Example]]) -> Detected:
        chosen = self.config.scheme
        return detect_scheme(splits) if chosen == "auto" else Detected(chosen, "set by task.scheme")

    def _sub_words(self, example: Example) -> SubWords:
        if "tokens" in example.values:
            return encode_words(self.tokenizer, example.values["tokens"], spaces=self._spaces)
        return encode_text(self.tokenizer, example.values["text"])

    def _tag_ids(self, example: Example) -> np.ndarray | None:
        """(words,) ids of the gold tags; -100 for one that the model does not have."""
        if "tags" not in example.values:
            return None
        return np.array([self._label_ids.get(tag, IGNORED) for tag in iob2(example)], np.int32)

    def _words(self, example: Example, windows: Sequence[Arrays]) -> tuple[str, list[str], Sequence[tuple[int, int]]]:
        """Text, words and their places in it."""
        if "tokens" in example.values:
            words = example.values["tokens"]
            return joined(words)[0], list(words), joined(words)[1]
        text: str = example.values["text"]
        places: Sequence[tuple[int, int]]
        if windows and "places" in windows[0]:
            places = [(int(start), int(end)) for start, end in windows[0]["places"].reshape(-1, 2)]
        else:
            places = self._sub_words(example).spans
        return text, [text[start:end] for start, end in places], places

    def _checked_overlap(self) -> int:
        if self.config.overlap is None:
            return min(DEFAULT_OVERLAP, self._capacity // 4)
        if self.config.overlap >= self._capacity:
            raise ConfigError(
                f"task.overlap={self.config.overlap} is not less than the {self._capacity} tokens that a window holds "
                f"beside special tokens (the most is {self.max_length} in all)",
                slug="out-of-range",
                key="task.overlap",
                help=f"give at most {self._capacity // 2}, or raise model.max_length",
            )
        return self.config.overlap

    @cached_property
    def _weights(self) -> np.ndarray | None:
        """(C,) class weights. A trained model that is only evaluated does not know the counts for `balanced`: all 1."""
        return weights_of(self.config.class_weights, self.labels.names, self.labels.counts, key="task.class_weights")

    def _weights_on(self, device: torch.device) -> Tensor | None:
        import torch

        return None if self._weights is None else torch.from_numpy(self._weights).to(device)


def _at(places: np.ndarray, values: np.ndarray, length: int, rest: int) -> np.ndarray:
    """(length,) int32 with `values` at `places` and `rest` elsewhere."""
    array = np.full(length, rest, np.int32)
    array[places] = values
    return array


def _marks(tags: Sequence[str], places: Sequence[tuple[int, int]]) -> tuple[Mark, ...]:
    return tuple(Mark(places[span.start][0], places[span.end - 1][1], span.type) for span in spans_of(tags))


def _named(marks: Sequence[Mark], text: str) -> str:
    return "; ".join(f"{mark.label}: {text[mark.start : mark.end]}" for mark in marks) or "no entities"


PLUGIN = Ner

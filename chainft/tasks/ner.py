"""Named entities, and tags of words in general: one tag a word, learned at the word's first sub-word.

Whatever scheme the data use, training and prediction are in IOB2. A sentence longer than the model reads becomes
overlapping windows; every word is owned by one of them, so none is lost and none counts twice.
Shapes: B windows, L tokens, C tags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import ConfigError, DataError, Problem
from chainft.metrics.base import make_metrics
from chainft.tasks._ner_config import NerConfig
from chainft.tasks._ner_rows import DEFAULT_CONTEXT, IGNORED, Layout, checked_overlap
from chainft.tasks._ner_sequences import crf_loss, new_crf, solve_batch, solve_windows
from chainft.tasks.base import About, Arrays, Baseline, Column, Field, Mark, Metric, Mistake, Prediction, Task
from chainft.text.align import SubWords, encode_text, encode_words, needs_spaces, shortened
from chainft.text.context import AFTER, BEFORE, with_neighbours
from chainft.text.frame import find_frame
from chainft.text.inputs import checked_text, take, text_example
from chainft.text.labels import weights_of
from chainft.text.lexicon import Lexicon
from chainft.text.schemes import Detected, convert, spans_of
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

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from chainft.data.batching import Batch
    from chainft.models.crf import LinearChainCrf
    from chainft.models.task_modules import TaskModule


class Ner(Task):
    """Tags of words. `fields` are what data hold; prediction also takes a raw `text`."""

    config_class: ClassVar[type[TaskConfig]] = NerConfig
    fields: ClassVar[tuple[Field, ...]] = (
        Field("tokens", "texts", aliases=("words", "token")),
        Field("tags", "tags", aliases=("ner_tags", "labels", "tag"), gold=True),
    )
    document: ClassVar[Field] = Field("document", "label", required=False, aliases=("document_id", "doc_id", "doc"))
    features: ClassVar[Mapping[str, Column]] = {
        "input_ids": Column("pad_token", model_input=True),
        "token_type_ids": Column(0, model_input=True),
        "word_ids": Column(-1),
        "labels": Column(IGNORED),
        "before": Column(0, axis=None),
        "goes_on": Column(0, axis=None),
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
        if problems := list(config.without_effect()):
            raise ConfigError.of(problems)
        self.metrics()  # A wrong name is found before any data are read.
        if config.context == "document":
            self.fields = (*Ner.fields, Ner.document)  # type: ignore[misc]  # Else such a column says nothing.
        self._detected: Detected | None = None
        self._label_ids: dict[str, int] = {}
        self._crf: LinearChainCrf | None = None
        self._is_sequence = config.crf or config.decoding == "viterbi"

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        """With `scheme: auto`, steps between tags are checked once all are known (`learn_labels`)."""
        yield from check_sentence(example, None if self.config.scheme == "auto" else self.config.scheme)

    def arranged(self, examples: Sequence[Example]) -> Sequence[Example]:
        """With `context: document`, each sentence gets words of its document. Raises DataError where none is told."""
        return with_neighbours(examples, self._max_context) if self.config.context == "document" else examples

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
        self._spaces = needs_spaces(tokenizer)
        frame = find_frame(tokenizer)
        capacity = max_length - frame.num_special
        overlap = checked_overlap(self.config.overlap, capacity, max_length)
        self._layout = Layout(frame, capacity, overlap, self._max_context, self._is_sequence)
        self._label_ids = self.labels.id_of()
        if self.labels.names:
            self._weights  # noqa: B018  A name that is no tag is found now.

    def encode(self, example: Example) -> list[Arrays]:
        """Windows with at least one word that they own; none for an empty text.

        Of a word longer than a window, the first sub-words are kept. For a raw text the windows also hold
        `places`, start and end of each word, for `decode`.
        """
        words, own = self._sub_words(example)
        extra: Arrays = {"places": np.array(words.spans, np.int64).reshape(-1)} if words.spans else {}
        cut = shortened(words, self._layout.capacity)
        return [row | extra for row in self._layout.rows(cut, own, self._tag_ids(example, cut.lengths[own.start :]))]

    def num_tokens(self, example: Example) -> int:
        words, own = self._sub_words(example)
        return int(words.first[own.stop] - words.first[own.start]) + self._layout.frame.num_special

    # Model --------------------------------------------------------------------------------------

    def modules(self) -> Mapping[str, TaskModule]:
        self._crf = new_crf(self.labels.names, self.config.crf_lr) if self.config.crf else None
        return {} if self._crf is None else {"crf": self._crf}

    def planned(self) -> Task:
        """Without the CRF, which takes a step for each word: of memory and work of a training next to nothing."""
        if not self.config.crf:
            return self
        twin = Ner(replace(self.config, crf=False, crf_lr=None))
        twin.labels = self.labels
        return twin

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Cross entropy of the tags of owned words, or -log p of their sequence by the CRF; logits (B, L, C)."""
        from chainft.models.losses import token_cross_entropy_sum

        if self.config.crf:
            return crf_loss(self._ready_crf(), output.logits, batch)
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

    def raw(self, output: Any, batch: Batch) -> Sequence[Any]:
        """For each window: tag ids and probabilities of its owned words, (owned,) each; for a part of a sentence that is
        decoded as a whole, scores (owned, C)."""
        if self._is_sequence:
            return solve_batch(self.labels.names, self._crf, output.logits, batch)
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
        solved = raw if not raw or isinstance(raw[0], tuple) else solve_windows(self.labels.names, self._crf, raw)
        for window, (ids, values) in zip(windows, solved, strict=True):
            owned = window["word_ids"][window["word_ids"] >= 0]
            for word, tag, value in zip(owned.tolist(), ids.tolist(), values.tolist(), strict=True):
                found[word], probabilities[word] = self.labels.names[tag], value
        tags = convert(fill_unseen(found), "iob2")  # Reads I- that goes on nothing as the start of an entity.
        return {
            "text": text,
            "entities": entities_of(tags, probabilities, text, places),
            "tags": tags,
            "tokens": words,
        }

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A line of text, or an object with `tokens` (a list of words) or `text`; other fields are not looked at but, with
        `context: document`, `before` and `after`: the words around these tokens."""
        values = {"text": value} if isinstance(value, str) else value
        names = [name for name in ("tokens", *self.fields[0].aliases) if name in values]
        found = take(values, names or ("text", "tokens"), where=where)
        if not names:
            return text_example({"text": checked_text(found, "text", where=where)}, where)
        if problems := list(check_words(found, where=lambda item: where)):
            raise DataError.of(problems)
        context = {
            name: values[name] for name in (BEFORE, AFTER) if name in values and self.config.context == "document"
        }
        if problems := [found for one in context.values() for found in check_words(one, where=lambda item: where)]:
            raise DataError.of(problems)
        return text_example({"tokens": found, **context}, where)

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

    @property
    def _max_context(self) -> int:
        return DEFAULT_CONTEXT if self.config.max_context is None else self.config.max_context

    def _ready_crf(self) -> LinearChainCrf:
        if self._crf is None:
            raise ValueError("the CRF has no model yet: `modules` was not called")
        return self._crf

    def _sub_words(self, example: Example) -> tuple[SubWords, range]:
        """The sub-words of the sentence between its context, and which of the words are its own."""
        if "tokens" not in example.values:
            words = encode_text(self.tokenizer, example.values["text"])
            return words, range(words.num_words)
        own = example.values["tokens"]
        before, after = (example.values.get(name, []) for name in (BEFORE, AFTER))
        words = encode_words(self.tokenizer, [*before, *own, *after], spaces=self._spaces)
        return words, range(len(before), len(before) + len(own))

    def _tag_ids(self, example: Example, lengths: np.ndarray) -> np.ndarray | None:
        """(words,) ids of the gold tags; -100 for one that the model does not have. `lengths`: sub-words of each word.

        For a CRF, words without sub-words are left out before entities become tags: what remains must be legal.
        """
        if "tags" not in example.values:
            return None
        tags = iob2(example)
        if self.config.crf:
            seen = [place for place in range(len(tags)) if lengths[place] > 0]
            for place, tag in zip(seen, convert([tags[place] for place in seen], "iob2"), strict=True):
                tags[place] = tag
        return np.array([self._label_ids.get(tag, IGNORED) for tag in tags], np.int32)

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
            places = self._sub_words(example)[0].spans
        return text, [text[start:end] for start, end in places], places

    @cached_property
    def _weights(self) -> np.ndarray | None:
        """(C,) class weights. A trained model that is only evaluated does not know the counts for `balanced`: all 1."""
        return weights_of(self.config.class_weights, self.labels.names, self.labels.counts, key="task.class_weights")

    def _weights_on(self, device: torch.device) -> Tensor | None:
        import torch

        return None if self._weights is None else torch.from_numpy(self._weights).to(device)


def _marks(tags: Sequence[str], places: Sequence[tuple[int, int]]) -> tuple[Mark, ...]:
    return tuple(Mark(places[span.start][0], places[span.end - 1][1], span.type) for span in spans_of(tags))


def _named(marks: Sequence[Mark], text: str) -> str:
    return "; ".join(f"{mark.label}: {text[mark.start : mark.end]}" for mark in marks) or "no entities"


PLUGIN = Ner

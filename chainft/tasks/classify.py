"""Classification of texts or pairs of texts: one label each, or any number of them (`multi_label`).

A text longer than the model takes becomes several overlapping windows. In training the loss of each window
weighs 1 / number of windows, so that every text counts the same; in prediction the logits of the windows are
averaged. Shapes: B batch (windows), C classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from chainft.config.ranges import CountOrZero, Fraction, FractionBelowOne, Positive
from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import ConfigError, DataError, Problem, did_you_mean
from chainft.metrics.base import make_metrics
from chainft.tasks.base import Arrays, Column, Field, Labels, Metric, Mistake, Prediction, Task
from chainft.text.fit import truncated, windows
from chainft.text.labels import check_fields, check_seen, origin_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from chainft.data.batching import Batch

DEFAULT_THRESHOLD = 0.5
_TEXTS = (
    Field("text", "text", aliases=("sentence", "content", "utterance", "review", "sentence1", "premise", "question1")),
    Field("text_pair", "text", required=False, aliases=("sentence2", "hypothesis", "question2")),
)
_FEATURES: Mapping[str, Column] = {
    "input_ids": Column(pad="pad_token", model_input=True),
    "token_type_ids": Column(pad=0, model_input=True),
    "window_weight": Column(pad=0, dtype="float32", per_token=False),
}


@dataclass(frozen=True, kw_only=True)
class ClassifyConfig(TaskConfig):
    """One label a text (or pair of texts), or any number of labels."""

    name: str = "classify"
    multi_label: bool = False
    """Any number of labels a text, also none, instead of exactly one."""
    threshold: Fraction | None = None
    """With `multi_label`: the probability from which a label is predicted; default 0.5."""
    overflow: Literal["window", "truncate", "error"] = "window"
    """What an over-long text does: become windows whose predictions are averaged, lose its end, or stop the run."""
    overlap: CountOrZero | None = None
    """Tokens that two windows of a text share; default: a quarter of a window."""
    label_smoothing: FractionBelowOne = 0.0
    """Share of the target that is spread evenly over all labels."""
    class_weights: Literal["balanced"] | Mapping[str, Positive] | None = None
    """Weight of each label in the loss: null (all 1), balanced (rare ones more), or numbers such as `{spam: 2}`."""
    metrics: tuple[str, ...] | None = None
    """What evaluation counts; default: classification, or multilabel with `multi_label`."""


class Classify(Task):
    """What both kinds share. `Classify(config)` gives a `SingleLabel` or a `MultiLabel`."""

    config_class: ClassVar[type[TaskConfig]] = ClassifyConfig
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    config: ClassifyConfig
    default_metric: ClassVar[str]
    problem_type: ClassVar[str]

    def __new__(cls, config: TaskConfig) -> Classify:
        assert isinstance(config, ClassifyConfig)
        chosen = (MultiLabel if config.multi_label else SingleLabel) if cls is Classify else cls
        return super().__new__(chosen)

    def __init__(self, config: ClassifyConfig) -> None:
        super().__init__(config)
        if problems := list(_contradictions(config)):
            raise ConfigError.of(problems)
        self.overlap = 0
        self._weights: tuple[float, ...] | None = None

    # Data ---------------------------------------------------------------------------------------

    @abstractmethod
    def labels_of(self, example: Example) -> tuple[str, ...]:
        """The gold labels of an example, each once."""

    @abstractmethod
    def target(self, labels: Sequence[str]) -> np.ndarray:
        """Gold labels as the loss takes them."""

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        counts = Counter(label for example in splits.get("train", ()) for label in self.labels_of(example))
        names = set(counts)
        if unseen == "error":
            check_seen(splits, self.labels_of, counts)
        else:
            names |= {label for several in splits.values() for one in several for label in self.labels_of(one)}
        self.labels = Labels(tuple(sorted(names)), dict(counts))

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        if not self.labels.names:
            help = "check data.columns and the training file"
            yield Finding("no-labels", "error", "no training example has a label: nothing to learn", help=help)
        if self.config.overflow == "truncate":
            yield from self._cut_texts(splits)

    def _cut_texts(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        for split, examples in splits.items():
            cut = [example for example in examples if len(self._tokens(example)["input_ids"]) > self.max_length]
            if cut:
                yield Finding(
                    "cut-text",
                    "warning",
                    f"{split}: {len(cut)} of {len(examples)} texts lose what is beyond {self.max_length} tokens",
                    cut[0].where(),
                    "task.overflow=window keeps all of it",
                    len(cut),
                )

    # Features -----------------------------------------------------------------------------------

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Raises ConfigError for an overlap or class weights that do not fit tokenizer and labels."""
        super().prepare(tokenizer, max_length=max_length)
        size = max_length - tokenizer.num_special_tokens_to_add(pair=False)
        self.overlap = size // 4 if self.config.overlap is None else self.config.overlap
        if self.overlap > size // 2:
            raise ConfigError(
                f"task.overlap = {self.overlap} is more than half of a window, which holds {size} tokens of text",
                slug="out-of-range",
                key="task.overlap",
                help=f"give at most {size // 2}, or raise model.max_length",
            )
        self._weights = _class_weights(self.config, self.labels)

    def encode(self, example: Example) -> list[Arrays]:
        tokens = self._tokens(example)
        kept = self._fitted(tokens.sequence_ids(0), example)
        names = [name for name in ("input_ids", "token_type_ids") if name in tokens]
        arrays = {name: np.array(tokens[name], dtype=np.int32) for name in names}
        shared: Arrays = {"window_weight": np.array([1 / len(kept)], dtype=np.float32)}
        if "label" in example.values or "labels" in example.values:
            shared["labels"] = self.target(self.labels_of(example))
        return [{name: array[places] for name, array in arrays.items()} | shared for places in kept]

    def _tokens(self, example: Example) -> BatchEncoding:
        """The whole text, or pair, with special tokens."""
        pair = example.values.get("text_pair")
        texts = [example.values["text"]] if pair is None else [example.values["text"], pair]
        tokens: BatchEncoding = self.tokenizer(*texts, truncation=False, verbose=False)
        if not tokens["input_ids"]:
            raise DataError(f"the text {texts[0]!r} has no tokens", slug="no-tokens", where=example.where())
        return tokens

    def _fitted(self, sequence_ids: Sequence[int | None], example: Example) -> list[list[int]]:
        """Which tokens each window keeps."""
        found = None
        if len(sequence_ids) <= self.max_length or self.config.overflow == "window":
            found = windows(sequence_ids, limit=self.max_length, overlap=self.overlap)
        elif self.config.overflow == "truncate":
            found = [truncated(sequence_ids, limit=self.max_length)]
        if found is not None:
            return found
        other = "truncate cuts the end" if self.config.overflow == "window" else "window keeps all of it"
        raise DataError(
            f"{'the pair of texts' if 1 in sequence_ids else 'the text'} has {len(sequence_ids)} tokens, "
            f"the most is {self.max_length}",
            slug="too-long",
            where=example.where(),
            help=f"raise model.max_length, or set task.overflow ({other})",
        )

    # Model --------------------------------------------------------------------------------------

    def model_options(self) -> dict[str, Any]:
        return {**super().model_options(), "problem_type": self.problem_type, "pad_token_id": self.pad_token_id}

    def raw(self, output: Any, batch: Batch) -> Sequence[np.ndarray]:
        """The logits of each window, (C,)."""
        return list(output.logits.float().cpu().numpy())

    # Prediction ---------------------------------------------------------------------------------

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A line of text, or an object with `text` and, for pairs, `text_pair`."""
        values = {"text": value} if isinstance(value, str) else dict(value)
        check_fields(values, {field.name: field.required for field in self.fields if not field.gold}, where=where)
        return Example(values, origin_of(where))

    def metrics(self) -> list[Metric]:
        return make_metrics(self.config.metrics or (self.default_metric,), self.metric_family)


class SingleLabel(Classify):
    """Exactly one label a text."""

    fields: ClassVar[tuple[Field, ...]] = (
        *_TEXTS,
        Field("label", "label", aliases=("category", "intent", "class", "target"), gold=True),
    )
    features: ClassVar[Mapping[str, Column]] = {**_FEATURES, "labels": Column(pad=-100, per_token=False)}
    main_metric: ClassVar[str] = "f1_macro"
    metric_family: ClassVar[str] = "label"
    default_metric: ClassVar[str] = "classification"
    problem_type: ClassVar[str] = "single_label_classification"

    def validate(self, example: Example) -> Iterator[Problem]:
        label = example.values.get("label")
        if isinstance(label, list | tuple):
            help = "for any number of labels a text set task.multi_label=true (the column is then 'labels')"
            yield Problem(
                "several-labels", f"one label is wanted, got the list {label!r}", example.where(), None, help
            )
        elif label is not None and not (isinstance(label, str) and label.strip()):
            yield Problem("no-label", f"the label {label!r} is not a name", example.where())

    def labels_of(self, example: Example) -> tuple[str, ...]:
        return (example.values["label"],)

    def target(self, labels: Sequence[str]) -> np.ndarray:
        return np.array([self.labels.names.index(labels[0])], dtype=np.int32)

    def stratum(self, example: Example) -> str | None:
        return str(example.values["label"])

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Cross-entropy, each window's by its weight and the weight of its label."""
        from torch.nn import functional

        losses = functional.cross_entropy(
            output.logits.float(),
            batch.targets["labels"].squeeze(1),
            weight=self._weight_tensor(output.logits.device),
            label_smoothing=self.config.label_smoothing,
            reduction="none",
        )
        return (losses * batch.targets["window_weight"].squeeze(1)).sum()

    def num_targets(self, batch: Batch) -> float:
        """Texts: the weights of windows, times those of their labels."""
        weights = batch.targets["window_weight"].squeeze(1).double()
        labels = self._weight_tensor(weights.device)
        if labels is not None:
            weights = weights * labels.double()[batch.targets["labels"].squeeze(1)]
        return float(weights.sum())

    def _weight_tensor(self, device: torch.device) -> Tensor | None:
        import torch

        return None if self._weights is None else torch.tensor(self._weights, dtype=torch.float32, device=device)

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        logits = np.mean(np.stack(raw).astype(np.float64), axis=0)
        shares = np.exp(logits - logits.max())
        scores = _scores(self.labels.names, shares / shares.sum())
        label, score = next(iter(scores.items()))
        return {**_given(example), "label": label, "score": score, "scores": scores}

    def gold(self, example: Example) -> str:
        return str(example.values["label"])

    def predicted(self, prediction: Prediction) -> str:
        return str(prediction["label"])

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        gold, label = self.gold(example), self.predicted(prediction)
        return None if gold == label else Mistake(prediction["score"], _shown(example), gold, label)


class MultiLabel(Classify):
    """Any number of labels a text, each decided by itself."""

    fields: ClassVar[tuple[Field, ...]] = (
        *_TEXTS,
        Field("labels", "labels", aliases=("label", "categories", "topics"), gold=True),
    )
    features: ClassVar[Mapping[str, Column]] = {
        **_FEATURES,
        "labels": Column(pad=0, dtype="float32", per_token=False),
    }
    main_metric: ClassVar[str] = "f1_micro"
    metric_family: ClassVar[str] = "labels"
    default_metric: ClassVar[str] = "multilabel"
    problem_type: ClassVar[str] = "multi_label_classification"

    def validate(self, example: Example) -> Iterator[Problem]:
        labels = example.values.get("labels", ())
        if not isinstance(labels, list | tuple):
            yield Problem("wrong-type", f"a list of labels is wanted, got {labels!r}", example.where())
            return
        for label in labels:
            if not (isinstance(label, str) and label.strip()):
                yield Problem("no-label", f"the label {label!r} is not a name", example.where())

    def labels_of(self, example: Example) -> tuple[str, ...]:
        return tuple(dict.fromkeys(example.values["labels"]))

    def target(self, labels: Sequence[str]) -> np.ndarray:
        return np.array([name in labels for name in self.labels.names], dtype=np.float32)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Binary cross-entropy over all (text, label) decisions, each window's by its weight."""
        from torch.nn import functional

        losses = functional.binary_cross_entropy_with_logits(
            output.logits.float(), batch.targets["labels"].float(), reduction="none"
        )
        return (losses * batch.targets["window_weight"]).sum()

    def num_targets(self, batch: Batch) -> float:
        """Decisions: texts times labels."""
        return float(batch.targets["window_weight"].double().sum()) * len(self.labels.names)

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        logits = np.mean(np.stack(raw).astype(np.float64), axis=0)
        scores = _scores(self.labels.names, 0.5 * (1 + np.tanh(logits / 2)))
        labels = [name for name in self.labels.names if scores[name] >= self.threshold]
        return {**_given(example), "labels": labels, "scores": scores}

    @property
    def threshold(self) -> float:
        return DEFAULT_THRESHOLD if self.config.threshold is None else self.config.threshold

    def gold(self, example: Example) -> list[str]:
        return sorted(self.labels_of(example))

    def predicted(self, prediction: Prediction) -> list[str]:
        return list(prediction["labels"])

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        gold, labels = self.gold(example), self.predicted(prediction)
        wrong = set(gold) ^ set(labels)
        if not wrong:
            return None
        badness = sum(abs((name in gold) - prediction["scores"].get(name, 0.0)) for name in sorted(wrong))
        return Mistake(badness, _shown(example), ", ".join(gold) or "(none)", ", ".join(labels) or "(none)")


def _contradictions(config: ClassifyConfig) -> Iterator[Problem]:
    """Settings that would have no effect."""
    if config.multi_label:
        for name in ("label_smoothing", "class_weights"):
            if value := getattr(config, name):
                because = "each label is decided by itself"
                yield Problem("no-effect", f"task.{name} = {value!r} with multi_label: {because}", key=f"task.{name}")
    elif config.threshold is not None:
        message = f"task.threshold = {config.threshold} has no effect: the likeliest of all labels is predicted"
        yield Problem("no-effect", message, key="task.threshold", help="set task.multi_label=true as well")
    if config.overlap is not None and config.overflow != "window":
        message = f"task.overlap = {config.overlap} has no effect: task.overflow = {config.overflow!r}"
        yield Problem("no-effect", message, key="task.overlap")


def _class_weights(config: ClassifyConfig, labels: Labels) -> tuple[float, ...] | None:
    """A weight for each label. Raises ConfigError for a name that is no label."""
    weights = config.class_weights
    if weights is None:
        return None
    if weights == "balanced":
        total, counts = sum(labels.counts.values()), labels.counts
        return tuple(total / (len(counts) * counts[name]) if name in counts else 1.0 for name in labels.names)
    assert isinstance(weights, Mapping)
    for name in weights:
        if name not in labels.names:
            raise ConfigError(
                f"task.class_weights names {name!r}, which is no label; there are: {', '.join(labels.names)}",
                slug="unknown-label",
                key=f"task.class_weights.{name}",
                help=did_you_mean(name, labels.names),
            )
    return tuple(float(weights.get(name, 1.0)) for name in labels.names)


def _scores(names: Sequence[str], probabilities: np.ndarray) -> dict[str, float]:
    """Probabilities by label, the largest first."""
    order = np.argsort(-probabilities, kind="stable")
    return {names[index]: float(probabilities[index]) for index in order}


def _given(example: Example) -> dict[str, str]:
    """The texts of an example, as its prediction repeats them."""
    return {name: example.values[name] for name in ("text", "text_pair") if example.values.get(name) is not None}


def _shown(example: Example) -> str:
    return "\n".join(_given(example).values())


PLUGIN = Classify

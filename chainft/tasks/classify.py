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
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np

from chainft.config.ranges import Fraction, FractionBelowOne, Limits, Positive
from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import ConfigError, Problem
from chainft.metrics.base import make_metrics
from chainft.tasks.base import About, Arrays, Baseline, Column, Field, Labels, Metric, Mistake, Prediction, Task
from chainft.text import classes
from chainft.text.bag_of_words import bag_of_words
from chainft.text.labels import Census, label_set, weights_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from chainft.data.batching import Batch

DEFAULT_THRESHOLD = 0.5
IGNORED = -100
_FEATURES: Mapping[str, Column] = {
    "input_ids": Column(pad="pad_token", model_input=True),
    "token_type_ids": Column(pad=0, model_input=True),
    "window_weight": Column(pad=0, dtype="float32", axis=None),
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
    window_overlap: Annotated[int, Limits(low=0)] | FractionBelowOne = 0.25
    """What two windows of an over-long text share: tokens (whole number) or a share of a window; at most half."""
    label_smoothing: FractionBelowOne = 0.0
    """Share of the target that is spread evenly over all labels; with `multi_label`, over yes and no of each label."""
    class_weights: Literal["balanced"] | Mapping[str, Positive] | None = None
    """Weight of each label in the loss: null (all 1), balanced (rare ones more), or numbers such as `{spam: 2}`.
    With `multi_label` it weighs the texts that have the label; those without it weigh 1."""
    metrics: tuple[str, ...] | None = None
    """What evaluation counts; default: classification, or multilabel with `multi_label`."""

    def without_effect(self) -> Iterator[Problem]:
        """Settings that others make pointless."""
        if self.threshold is not None and not self.multi_label:
            because = "the likeliest of all labels is predicted"
            help = "set task.multi_label=true as well"
            yield Problem("no-effect", f"task.threshold has no effect: {because}", key="task.threshold", help=help)
        if self.window_overlap != ClassifyConfig.window_overlap and self.overflow != "window":
            because = f"task.overflow = {self.overflow!r} makes no windows"
            yield Problem("no-effect", f"task.window_overlap has no effect: {because}", key="task.window_overlap")


class Classify(Task):
    """What both kinds share. `Classify(config)` gives a `SingleLabel` or a `MultiLabel`."""

    config_class: ClassVar[type[TaskConfig]] = ClassifyConfig
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    about: ClassVar[About] = About(
        "Text classification",
        purpose="classifies texts",
        sample="My card still has not arrived.",
        pipeline="text-classification",
    )
    config: ClassifyConfig
    default_metric: ClassVar[str]
    problem_type: ClassVar[str]

    def __new__(cls, config: TaskConfig) -> Self:
        """The class that `multi_label` asks for."""
        assert isinstance(config, ClassifyConfig)
        chosen: Any = (MultiLabel if config.multi_label else SingleLabel) if cls is Classify else cls
        made: Self = super().__new__(chosen)
        return made

    def __init__(self, config: ClassifyConfig) -> None:
        super().__init__(config)
        if problems := list(config.without_effect()):
            raise ConfigError.of(problems)
        self.metrics()  # A wrong name is found here.
        self._fitter: classes.Fitter

    @classmethod
    def default_data(cls, settings: Mapping[str, Any]) -> str:
        return super().default_data(settings) + ("_multi" if settings.get("multi_label") is True else "")

    # Data ---------------------------------------------------------------------------------------

    @abstractmethod
    def labels_of(self, example: Example) -> tuple[str, ...]:
        """The gold labels of an example, each once."""

    @cached_property
    def _class_weights(self) -> np.ndarray | None:
        return weights_of(self.config.class_weights, self.labels.names, self.labels.counts, key="task.class_weights")

    @abstractmethod
    def target(self, labels: Sequence[str]) -> np.ndarray:
        """Gold labels as the loss takes them."""

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        census = {split: Census() for split in splits}
        for split, examples in splits.items():
            for example in examples:
                for label in self.labels_of(example):
                    census[split].add(label, example.where())
        names = label_set(census, unseen=unseen, what="label")
        self.labels = Labels(tuple(names), dict(census["train"].counts) if "train" in census else {})

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        if not self.labels.names:
            help = "check data.columns and the training file"
            yield Finding("no-labels", "error", "no training example has a label: nothing to learn", help=help)
        if hasattr(self, "_fitter"):
            yield from self._fitter.findings(splits)

    # Features -----------------------------------------------------------------------------------

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Raises ConfigError for an overlap or class weights that do not fit tokenizer and labels."""
        super().prepare(tokenizer, max_length=max_length)
        overflow, overlap = self.config.overflow, self.config.window_overlap
        self._fitter = classes.Fitter.of(tokenizer, max_length, overflow=overflow, overlap=overlap)
        self._class_weights  # noqa: B018 - a wrong name in task.class_weights is found here

    def encode(self, example: Example) -> list[Arrays]:
        windows = self._fitter.encode(example)
        shared: Arrays = {"window_weight": np.array([1 / len(windows)], dtype=np.float32)}
        if "label" in example.values or "labels" in example.values:
            shared["labels"] = self.target(self.labels_of(example))
        return [window | shared for window in windows]

    def num_tokens(self, example: Example) -> int:
        return self._fitter.num_tokens(example)

    # Model --------------------------------------------------------------------------------------

    def model_options(self) -> dict[str, Any]:
        return {**super().model_options(), "problem_type": self.problem_type, "pad_token_id": self.pad_token_id}

    def raw(self, output: Any, batch: Batch) -> Sequence[np.ndarray]:
        """The logits of each window, (C,)."""
        return list(output.logits.float().cpu().numpy())

    # Prediction ---------------------------------------------------------------------------------

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A line of text, or an object with `text` and, for pairs, `text_pair`."""
        return classes.read_texts(value, where=where)

    def metrics(self) -> list[Metric]:
        names = (self.default_metric,) if self.config.metrics is None else self.config.metrics
        return make_metrics(names, self.metric_family)


class SingleLabel(Classify):
    """Exactly one label a text."""

    fields: ClassVar[tuple[Field, ...]] = (
        classes.TEXT,
        classes.TEXT_PAIR,
        Field("label", "label", aliases=("category", "intent", "class", "target"), gold=True),
    )
    features: ClassVar[Mapping[str, Column]] = {**_FEATURES, "labels": Column(pad=IGNORED, axis=None)}
    main_metric: ClassVar[str] = "f1_macro"
    metric_family: ClassVar[str] = "label"
    default_metric: ClassVar[str] = "classification"
    problem_type: ClassVar[str] = "single_label_classification"

    def validate(self, example: Example) -> Iterator[Problem]:
        yield from classes.check_texts(example)
        yield from classes.name_problems(example.values.get("label", "absent"), example.where())

    def labels_of(self, example: Example) -> tuple[str, ...]:
        return (example.values["label"],)

    def target(self, labels: Sequence[str]) -> np.ndarray:
        """(1,) id of the label; -100, which the loss leaves out, for one that a trained model does not have."""
        names = self.labels.names
        return np.array([names.index(labels[0]) if labels[0] in names else IGNORED], dtype=np.int32)

    def stratum(self, example: Example) -> str | None:
        return str(example.values["label"])

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Cross-entropy, each window's by its weight and the weight of its label."""
        from torch.nn import functional

        losses = functional.cross_entropy(
            output.logits.float(),
            batch.targets["labels"].squeeze(1),
            weight=self._weights_like(output.logits),
            label_smoothing=self.config.label_smoothing,
            reduction="none",
        )
        return (losses * batch.targets["window_weight"].squeeze(1)).sum()

    def num_targets(self, batch: Batch) -> float:
        """Texts: the weights of windows, times those of their labels."""
        labels = batch.targets["labels"].squeeze(1)  # (B,)
        weights = batch.targets["window_weight"].squeeze(1).double() * (labels != IGNORED)
        of_class = self._weights_like(weights)
        if of_class is not None:
            weights = weights * of_class.double()[labels.clamp(min=0)]
        return float(weights.sum())

    def _weights_like(self, tensor: Tensor) -> Tensor | None:
        return None if self._class_weights is None else tensor.new_tensor(self._class_weights).float()

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        scores = classes.by_name(self.labels.names, classes.softmax(raw))
        label, score = next(iter(scores.items()))
        return {**classes.texts_of(example), "label": label, "score": score, "scores": scores}

    def gold(self, example: Example) -> str:
        return str(example.values["label"])

    def predicted(self, prediction: Prediction) -> str:
        return str(prediction["label"])

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`majority`: always the most frequent label; `bag_of_words`: TF-IDF and logistic regression."""
        most = Counter(map(self.gold, train)).most_common(1)
        learned = bag_of_words(list(map(classes.shown, train)), list(map(self.gold, train)))
        found: dict[str, Baseline] = {"majority": lambda example: most[0][0]}
        return found | ({"bag_of_words": lambda one: learned(classes.shown(one))} if learned else {})

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        gold, label = self.gold(example), self.predicted(prediction)
        return None if gold == label else Mistake(prediction["score"], classes.shown(example), gold, label)


class MultiLabel(Classify):
    """Any number of labels a text, each decided by itself."""

    fields: ClassVar[tuple[Field, ...]] = (
        classes.TEXT,
        classes.TEXT_PAIR,
        Field("labels", "labels", aliases=("label", "categories", "topics"), gold=True),
    )
    features: ClassVar[Mapping[str, Column]] = {
        **_FEATURES,
        "labels": Column(pad=0, dtype="float32", axis=None),
    }
    main_metric: ClassVar[str] = "f1_micro"
    metric_family: ClassVar[str] = "labels"
    default_metric: ClassVar[str] = "multilabel"
    problem_type: ClassVar[str] = "multi_label_classification"

    def validate(self, example: Example) -> Iterator[Problem]:
        yield from classes.check_texts(example)
        labels = example.values.get("labels", ())
        if isinstance(labels, list | tuple):
            for label in labels:
                yield from classes.name_problems(label, example.where())
        else:
            help = "write a list, [] for a text without labels"
            yield Problem("wrong-type", f"a list of labels is wanted, got {labels!r}", example.where(), help=help)

    def labels_of(self, example: Example) -> tuple[str, ...]:
        return tuple(dict.fromkeys(example.values["labels"]))

    def target(self, labels: Sequence[str]) -> np.ndarray:
        return np.array([name in labels for name in self.labels.names], dtype=np.float32)

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Binary cross-entropy over all (text, label) decisions, each by the weight of its window and label."""
        from torch.nn import functional

        labels, smoothing = batch.targets["labels"].float(), self.config.label_smoothing
        losses = functional.binary_cross_entropy_with_logits(
            output.logits.float(), labels * (1 - smoothing) + smoothing / 2, reduction="none"
        )  # (B, C)
        return (losses * self._decision_weights(batch)).sum()

    def num_targets(self, batch: Batch) -> float:
        """Decisions: texts times labels, by their weights."""
        return float(self._decision_weights(batch).double().sum())

    def _decision_weights(self, batch: Batch) -> Tensor:
        """(B, C): the weight of the window, times that of the label where the text has it."""
        labels, windows = batch.targets["labels"].float(), batch.targets["window_weight"]  # (B, C), (B, 1)
        if self._class_weights is None:
            return windows.expand_as(labels)
        return windows * (1 + labels * (labels.new_tensor(self._class_weights) - 1))

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        scores = classes.by_name(self.labels.names, classes.sigmoid(raw))
        threshold = DEFAULT_THRESHOLD if self.config.threshold is None else self.config.threshold
        labels = [name for name in self.labels.names if scores[name] >= threshold]
        return {**classes.texts_of(example), "labels": labels, "scores": scores}

    def gold(self, example: Example) -> list[str]:
        return sorted(self.labels_of(example))

    def predicted(self, prediction: Prediction) -> list[str]:
        return list(prediction["labels"])

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`majority`: always the most frequent set of labels."""
        most = Counter(tuple(self.gold(one)) for one in train).most_common(1)
        return {"majority": lambda example: list(most[0][0])}

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        gold, labels = self.gold(example), self.predicted(prediction)
        wrong = set(gold) ^ set(labels)
        if not wrong:
            return None
        badness = sum(abs((name in gold) - prediction["scores"].get(name, 0.0)) for name in sorted(wrong))
        return Mistake(badness, classes.shown(example), ", ".join(gold) or "(none)", ", ".join(labels) or "(none)")


PLUGIN = Classify

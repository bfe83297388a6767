"""What all kinds of the task `classify` share: reading texts and pairs, windows, learning label sets.

A text longer than the model takes becomes several overlapping windows. In training the loss of each window
weighs 1 / number of windows, so that every text counts the same; in prediction the logits of the windows are
averaged. Shapes: B batch (windows), C classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import ConfigError
from chainft.metrics.base import make_metrics
from chainft.tasks._classify_config import ClassifyConfig
from chainft.tasks.base import About, Arrays, Column, Labels, Metric, Task
from chainft.text import classes
from chainft.text.labels import Census, label_set, weights_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from chainft.data.batching import Batch

FEATURES: Mapping[str, Column] = {
    "input_ids": Column(pad="pad_token", model_input=True),
    "token_type_ids": Column(pad=0, model_input=True),
    "window_weight": Column(pad=0, dtype="float32", axis=None),
}


class TextClassifier(Task):
    """One text, or a pair, to one answer."""

    config_class: ClassVar[type[TaskConfig]] = ClassifyConfig
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    about: ClassVar[About] = About(
        "Text classification",
        purpose="classifies texts",
        sample="My card still has not arrived.",
        pipeline="text-classification",
    )
    config: ClassifyConfig
    default_metrics: ClassVar[tuple[str, ...]]
    problem_type: ClassVar[str]

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        assert isinstance(config, ClassifyConfig)
        if problems := list(config.without_effect()):
            raise ConfigError.of(problems)
        self.metrics()  # A wrong name is found here.
        self._fitter: classes.Fitter

    @classmethod
    def default_data(cls, settings: Mapping[str, Any]) -> str:
        kinds = ("multi_label", "_multi"), ("regression", "_regression")
        ending = next((ending for name, ending in kinds if settings.get(name) is True), "")
        return super().default_data(settings) + ending

    # Data ---------------------------------------------------------------------------------------

    @classmethod
    def gold_name(cls) -> str:
        """The field that holds the answer."""
        return next(field.name for field in cls.fields if field.gold)

    @abstractmethod
    def target(self, example: Example) -> np.ndarray:
        """The gold answer as the loss takes it."""

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        if hasattr(self, "_fitter"):
            yield from self._fitter.findings(splits)

    # Features -----------------------------------------------------------------------------------

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Raises ConfigError for an overlap that does not fit the tokenizer."""
        super().prepare(tokenizer, max_length=max_length)
        overflow, overlap = self.config.overflow, self.config.window_overlap
        self._fitter = classes.Fitter.of(tokenizer, max_length, overflow=overflow, overlap=overlap)

    def encode(self, example: Example) -> list[Arrays]:
        windows = self._fitter.encode(example)
        shared: Arrays = {"window_weight": np.array([1 / len(windows)], dtype=np.float32)}
        if self.gold_name() in example.values:
            shared["labels"] = self.target(example)
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
        names = self.default_metrics if self.config.metrics is None else self.config.metrics
        return make_metrics(names, self.metric_family)


class Labeller(TextClassifier):
    """A classifier whose answers are names of a label set."""

    @abstractmethod
    def labels_of(self, example: Example) -> tuple[str, ...]:
        """The gold labels of an example, each once."""

    @cached_property
    def class_weights(self) -> np.ndarray | None:
        """(C,) weights in the loss; None for equal ones."""
        return weights_of(self.config.class_weights, self.labels.names, self.labels.counts, key="task.class_weights")

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        census = {split: Census() for split in splits}
        for split, examples in splits.items():
            for example in examples:
                for label in self.labels_of(example):
                    census[split].add(label, example.where())
        trained = census["train"].counts if "train" in census else {}
        for name in self.foreign_labels - trained.keys():
            for one in census.values():
                one.counts.pop(name, None)
        names = label_set(census, unseen=unseen, what="label")
        self.labels = Labels(tuple(names), dict(trained))

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        if not self.labels.names:
            help = "check data.columns and the training file"
            yield Finding("no-labels", "error", "no training example has a label: nothing to learn", help=help)
        yield from super().contract(splits)

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Raises ConfigError for an overlap, or for class weights, that do not fit tokenizer and labels."""
        super().prepare(tokenizer, max_length=max_length)
        self.class_weights  # noqa: B018 - a wrong name in task.class_weights is found here

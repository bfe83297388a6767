"""Any number of labels a text, each decided by itself from a threshold on. Shapes: B batch (windows), C classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from chainft.config.run import TaskConfig
from chainft.data.example import Example
from chainft.errors import ConfigError, Problem, did_you_mean
from chainft.tasks._classify import FEATURES, Labeller
from chainft.tasks._tuning import best_threshold
from chainft.tasks.base import AUTO, Arrays, Baseline, Column, Field, Mistake, Prediction, Together
from chainft.text import classes
from chainft.text.bag_of_words import bags_of_words

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from chainft.data.batching import Batch

DEFAULT_THRESHOLD = 0.5


class MultiLabel(Labeller):
    """Any number of labels a text."""

    fields: ClassVar[tuple[Field, ...]] = (
        classes.TEXT,
        classes.TEXT_PAIR,
        Field("labels", "labels", aliases=("label", "categories", "topics"), gold=True),
    )
    features: ClassVar[Mapping[str, Column]] = {
        **FEATURES,
        "labels": Column(pad=0, dtype="float32", axis=None),
    }
    main_metric: ClassVar[str] = "f1_micro"
    metric_family: ClassVar[str] = "labels"
    default_metrics: ClassVar[tuple[str, ...]] = ("multilabel", "multilabel_ranking")
    problem_type: ClassVar[str] = "multi_label_classification"
    tuned_fields: ClassVar[tuple[str, ...]] = ("threshold",)

    # Data ---------------------------------------------------------------------------------------

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

    def target(self, example: Example) -> np.ndarray:
        """(C,) 1 for each label that the text has."""
        labels = self.labels_of(example)
        return np.array([name in labels for name in self.labels.names], dtype=np.float32)

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Raises ConfigError also for a threshold of what is no label."""
        super().prepare(tokenizer, max_length=max_length)
        chosen = self.config.threshold
        names = self.labels.names
        if isinstance(chosen, Mapping) and (unknown := [name for name in chosen if name not in names]):
            raise ConfigError.of(
                Problem(
                    "unknown-label",
                    f"task.threshold has a value for {name!r}, which is no label",
                    key=f"task.threshold.{name}",
                    help=did_you_mean(name, names) or f"the labels are {', '.join(names)}",
                )
                for name in unknown
            )

    # Loss ---------------------------------------------------------------------------------------

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
        if self.class_weights is None:
            return windows.expand_as(labels)
        return windows * (1 + labels * (labels.new_tensor(self.class_weights) - 1))

    # Prediction ---------------------------------------------------------------------------------

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        scores = classes.by_name(self.labels.names, classes.sigmoid(raw))
        labels = [name for name in self.labels.names if scores[name] >= self.threshold_of(name)]
        return {**classes.texts_of(example), "labels": labels, "scores": scores}

    def threshold_of(self, label: str) -> float:
        """The probability from which the label is predicted."""
        chosen = self.config.threshold
        if isinstance(chosen, Mapping):
            return chosen.get(label, DEFAULT_THRESHOLD)
        return chosen if isinstance(chosen, float) else DEFAULT_THRESHOLD

    def tuned(self, pairs: Iterable[tuple[Example, Prediction]]) -> TaskConfig:
        """For each label the threshold with the best F1; 0.5 for one that no validation text has.

        All probabilities of validation are held: 8 bytes each.
        """
        if self.config.threshold != AUTO:
            return self.config
        golds: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        for example, prediction in pairs:
            golds.append(self.target(example) > 0)
            rows.append(np.array([prediction["scores"][name] for name in self.labels.names]))
        chosen = {
            name: best_threshold(np.array([row[at] for row in rows]), np.array([gold[at] for gold in golds], bool))
            for at, name in enumerate(self.labels.names)
        }
        return replace(
            self.config, threshold={name: DEFAULT_THRESHOLD if one is None else one for name, one in chosen.items()}
        )

    # Scores -------------------------------------------------------------------------------------

    def gold(self, example: Example) -> list[str]:
        return sorted(self.labels_of(example))

    def predicted(self, prediction: Prediction) -> list[str]:
        return list(prediction["labels"])

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`majority`: always the most frequent set of labels; `bag_of_words`: TF-IDF, logistic regression a label."""
        most = Counter(tuple(self.gold(one)) for one in train).most_common(1)
        learned = bags_of_words(list(map(classes.words_of, train)), list(map(self.gold, train)))
        found: dict[str, Baseline] = {"majority": lambda example: list(most[0][0])}
        if learned:
            found["bag_of_words"] = Together(lambda examples: learned(list(map(classes.words_of, examples))))
        return found

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        gold, labels = self.gold(example), self.predicted(prediction)
        wrong = set(gold) ^ set(labels)
        if not wrong:
            return None
        badness = sum(abs((name in gold) - prediction["scores"].get(name, 0.0)) for name in sorted(wrong))
        return Mistake(badness, classes.shown(example), ", ".join(gold) or "(none)", ", ".join(labels) or "(none)")

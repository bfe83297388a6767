"""Exactly one label a text; probabilities can be calibrated, and texts that no label fits rejected.

Temperature: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2. Rejection by the
maximum softmax probability: D. Hendrycks and K. Gimpel, "A Baseline for Detecting Misclassified and
Out-of-Distribution Examples", ICLR 2017. Shapes: B batch (windows), C classes, N texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import Problem
from chainft.metrics._out_of_scope import OutOfScope
from chainft.tasks._classify import FEATURES, Labeller
from chainft.tasks._tuning import best_rejection, best_temperature
from chainft.tasks.base import AUTO, Arrays, Baseline, Column, Field, Metric, Mistake, Prediction, Together
from chainft.text import classes
from chainft.text.bag_of_words import bag_of_words

if TYPE_CHECKING:
    from torch import Tensor

    from chainft.data.batching import Batch

IGNORED = -100


class SingleLabel(Labeller):
    """Exactly one label a text."""

    fields: ClassVar[tuple[Field, ...]] = (
        classes.TEXT,
        classes.TEXT_PAIR,
        Field("label", "label", aliases=("category", "intent", "class", "target"), gold=True),
    )
    features: ClassVar[Mapping[str, Column]] = {**FEATURES, "labels": Column(pad=IGNORED, axis=None)}
    main_metric: ClassVar[str] = "f1_macro"
    metric_family: ClassVar[str] = "label"
    default_metrics: ClassVar[tuple[str, ...]] = ("classification", "calibration", "ranking")
    problem_type: ClassVar[str] = "single_label_classification"
    tuned_fields: ClassVar[tuple[str, ...]] = ("temperature", "reject")

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        yield from classes.check_texts(example)
        yield from classes.name_problems(example.values.get("label", "absent"), example.where())

    @property
    def foreign_labels(self) -> frozenset[str]:
        return frozenset() if self.config.reject is None else frozenset({self.config.reject_label})

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        """With `reject: auto`, also whether validation can tell a threshold."""
        yield from super().contract(splits)
        name = self.config.reject_label
        if self.config.reject == AUTO and all(self.gold(one) != name for one in splits.get("validation", ())):
            help = "give a file with such texts by data.validation, name their label by task.reject_label, or set a number"
            message = f"task.reject = 'auto' needs validation texts with the label {name!r}, and there are none"
            yield Finding("no-out-of-scope", "error", message, help=help)

    def labels_of(self, example: Example) -> tuple[str, ...]:
        return (example.values["label"],)

    def target(self, example: Example) -> np.ndarray:
        """(1,) id of the label; -100, which the loss leaves out, for one that a trained model does not have."""
        names, (label,) = self.labels.names, self.labels_of(example)
        return np.array([names.index(label) if label in names else IGNORED], dtype=np.int32)

    def stratum(self, example: Example) -> str | None:
        return self.gold(example)

    # Loss ---------------------------------------------------------------------------------------

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
        return None if self.class_weights is None else tensor.new_tensor(self.class_weights).float()

    # Prediction ---------------------------------------------------------------------------------

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        """`score` is the probability of the likeliest label, also where that is rejected."""
        scores = classes.by_name(self.labels.names, classes.softmax(raw, temperature=self._temperature))
        label, score = next(iter(scores.items()))
        if score < self._least:
            label = self.config.reject_label
        return {**classes.texts_of(example), "label": label, "score": score, "scores": scores}

    @property
    def _temperature(self) -> float:
        value = self.config.temperature
        return value if isinstance(value, float) else 1.0

    @property
    def _least(self) -> float:
        """The probability below which a text is out of scope."""
        value = self.config.reject
        return value if isinstance(value, float) else 0.0

    def tuned(self, pairs: Iterable[tuple[Example, Prediction]]) -> TaskConfig:
        """Temperature and threshold by the probabilities of all validation texts, which are held: 8 bytes each.

        Without validation the temperature is 1 and nothing is rejected.
        """
        names = self.labels.names
        gold: list[str] = []
        rows: list[np.ndarray] = []
        for example, prediction in pairs:
            gold.append(self.gold(example))
            rows.append(np.array([prediction["scores"][name] for name in names]))
        logits = classes.log(np.array(rows, dtype=np.float64).reshape(len(rows), len(names)))  # (N, C)
        answers = np.array([names.index(one) if one in names else -1 for one in gold], dtype=np.int64)
        config, temperature = self.config, 1.0
        if config.temperature == AUTO:
            temperature = best_temperature(logits[answers >= 0], answers[answers >= 0])
            config = replace(config, temperature=temperature)
        if config.reject == AUTO:
            tempered = np.array([classes.softmax([row], temperature=temperature) for row in logits])
            config = replace(config, reject=self._rejection(tempered, gold))
        return config

    def _rejection(self, probabilities: np.ndarray, gold: Sequence[str]) -> float | None:
        if not gold:
            return None
        right = np.array([self.labels.names[top] for top in probabilities.argmax(1)]) == np.array(gold)
        foreign = np.array(gold) == self.config.reject_label
        return best_rejection(probabilities.max(1), right=right, out_of_scope=foreign)

    # Scores -------------------------------------------------------------------------------------

    def gold(self, example: Example) -> str:
        return str(example.values["label"])

    def predicted(self, prediction: Prediction) -> str:
        return str(prediction["label"])

    def metrics(self) -> list[Metric]:
        """With `reject`, also those of texts in and out of scope."""
        out_of_scope = [] if self.config.reject is None else [OutOfScope(self.config.reject_label)]
        return [*super().metrics(), *out_of_scope]

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`majority`: always the most frequent label; `bag_of_words`: TF-IDF and logistic regression.

        Of pairs the words are told apart by the text that has them, or that both have. `second_text_only` sees the
        second text alone: what it finds is in the labels, not in the relation (Gururangan et al., NAACL 2018).
        """
        most = Counter(map(self.gold, train)).most_common(1)
        found: dict[str, Baseline] = {"majority": lambda example: most[0][0]}
        readers = {"bag_of_words": classes.words_of}
        if any(example.values.get("text_pair") for example in train):
            readers["second_text_only"] = lambda example: str(example.values.get("text_pair") or "")
        for name, read in readers.items():
            if learned := bag_of_words(list(map(read, train)), list(map(self.gold, train))):
                found[name] = Together(partial(_answers, learned, read))
        return found

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        gold, label = self.gold(example), self.predicted(prediction)
        return None if gold == label else Mistake(prediction["score"], classes.shown(example), gold, label)


def _answers(
    learned: Callable[[Sequence[str]], list[str]], read: Callable[[Example], str], examples: Sequence[Example]
) -> list[str]:
    return learned([read(one) for one in examples])

"""A number for each text, or for each pair of texts: ratings, similarities.

The model learns standardised scores, (score - target_mean) / target_std, so that the same learning rates serve any
unit; predictions and metrics are in the unit of the data. Shapes: B batch (windows).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from chainft.data.example import Example, Split
from chainft.errors import DataError, Problem
from chainft.tasks._classify import FEATURES, TextClassifier
from chainft.tasks.base import About, Arrays, Baseline, Column, Field, Mistake, Prediction, Together
from chainft.text import classes
from chainft.text.numbers import number_problems, read_number
from chainft.text.word_regression import cosine_regression, word_regression

if TYPE_CHECKING:
    from torch import Tensor

    from chainft.data.batching import Batch


class Regression(TextClassifier):
    """A number a text."""

    fields: ClassVar[tuple[Field, ...]] = (
        classes.TEXT,
        classes.TEXT_PAIR,
        Field("score", "value", aliases=("similarity", "similarity_score", "rating", "label", "target"), gold=True),
    )
    features: ClassVar[Mapping[str, Column]] = {**FEATURES, "labels": Column(pad=0, dtype="float32", axis=None)}
    main_metric: ClassVar[str] = "pearson"
    metric_family: ClassVar[str] = "number"
    default_metrics: ClassVar[tuple[str, ...]] = ("regression", "rank_correlation")
    problem_type: ClassVar[str] = "regression"
    tuned_fields: ClassVar[tuple[str, ...]] = ("target_mean", "target_std")
    about: ClassVar[About] = About(
        "Text regression",
        purpose="gives texts, or pairs of texts, a number",
        sample="The food was cold, but the waiter was friendly.",
        limit="Outside of the range of its training scores its numbers mean nothing.",
    )

    @property
    def needs_tuning(self) -> bool:
        """Never: `learn_labels` fills its settings in, by train; as tuned fields the saved model brings them back."""
        return False

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        yield from classes.check_texts(example)
        yield from number_problems(example.values.get("score"), "score", example.where())

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        """No labels, but mean and standard deviation of train. Raises DataError where all scores are the same."""
        scores = np.array([self.gold(example) for example in splits["train"]])
        if not len(scores):
            return
        if scores.min() == scores.max():
            raise DataError(
                f"every training example has the same score {scores[0]:g}: nothing to learn",
                slug="constant-target",
                where=splits["train"][0].where(),
                help="add examples with other scores, or check data.columns.score",
            )
        mean, std = self.config.target_mean, self.config.target_std
        self.config = replace(
            self.config,
            target_mean=float(scores.mean()) if mean == "auto" else mean,
            target_std=float(scores.std()) if std == "auto" else std,
        )

    @property
    def _scale(self) -> tuple[float, float]:
        """Mean and standard deviation; 0 and 1 before `learn_labels`, as where a run is planned without its data."""
        mean, std = self.config.target_mean, self.config.target_std
        return (0.0 if isinstance(mean, str) else mean), (1.0 if isinstance(std, str) else std)

    def target(self, example: Example) -> np.ndarray:
        """(1,) the standardised score."""
        mean, std = self._scale
        return np.array([(self.gold(example) - mean) / std], dtype=np.float32)

    # Model --------------------------------------------------------------------------------------

    def model_options(self) -> dict[str, Any]:
        """One output, called `score`; its scale stands in the config too, for those who load it elsewhere."""
        mean, std = self._scale
        one = {"id2label": {0: "score"}, "label2id": {"score": 0}}
        return {**super().model_options(), **one, "target_mean": mean, "target_std": std}

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Squared differences of standardised scores, each window's by its weight."""
        differences = output.logits.float() - batch.targets["labels"].float()  # (B, 1)
        total: Tensor = (differences.square() * batch.targets["window_weight"]).sum()
        return total

    def num_targets(self, batch: Batch) -> float:
        """Texts."""
        return float(batch.targets["window_weight"].double().sum())

    # Prediction ---------------------------------------------------------------------------------

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        mean, std = self._scale
        output = float(np.mean(np.asarray(raw, dtype=np.float64)))
        return {**classes.texts_of(example), "score": mean + std * output}

    def gold(self, example: Example) -> float:
        number = read_number(example.values["score"])
        assert number is not None  # `validate` saw to it.
        return number

    def predicted(self, prediction: Prediction) -> float:
        return float(prediction["score"])

    # Scores -------------------------------------------------------------------------------------

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`mean`: always the mean of train; `bag_of_words`: TF-IDF and ridge regression.

        For pairs also `word_overlap`: a straight line through the cosines of their TF-IDF vectors.
        """
        golds = [self.gold(one) for one in train]
        mean = float(np.mean(golds))
        found: dict[str, Baseline] = {"mean": lambda example: mean}
        if learned := word_regression(list(map(classes.words_of, train)), golds):
            found["bag_of_words"] = Together(lambda examples: learned(list(map(classes.words_of, examples))))
        if overlap := cosine_regression(list(map(_pair_of, train)), golds):
            found["word_overlap"] = Together(lambda examples: overlap(list(map(_pair_of, examples))))
        return found

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        gold, score = self.gold(example), self.predicted(prediction)
        if f"{gold:.4g}" == f"{score:.4g}":
            return None
        return Mistake(abs(gold - score), classes.shown(example), f"{gold:.4g}", f"{score:.4g}")


def _pair_of(example: Example) -> tuple[str, str | None]:
    """The text and the second one, if there is one."""
    return str(example.values["text"]), example.values.get("text_pair")

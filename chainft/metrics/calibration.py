"""Whether probabilities mean what they say: expected calibration error and the reliability diagram.

C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3: 15 bins of equal width, upper end included.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from chainft.metrics.base import ratio
from chainft.tasks.base import Chart, Metric, Prediction, Scores, Series

NUM_BINS = 15

_MEANING = (
    "how far the probability of the likeliest label is from the share that is right, on average (lower is better)"
)


class Calibration(Metric):
    """Counts texts by the probability of their likeliest label, in constant memory.

    Texts whose gold label the model does not have are left out: no probability could be right.
    """

    family: ClassVar[Literal["label"]] = "label"
    needs_scores: ClassVar[bool] = True

    def __init__(self) -> None:
        self._texts = [0] * NUM_BINS
        self._right = [0] * NUM_BINS
        self._confidence = [0.0] * NUM_BINS
        """Sums of probabilities."""

    def update(self, gold: str, predicted: Prediction) -> None:
        scores = predicted["scores"]
        if gold not in scores:
            return
        label = max(scores, key=scores.__getitem__)
        place = min(max(math.ceil(scores[label] * NUM_BINS) - 1, 0), NUM_BINS - 1)
        self._texts[place] += 1
        self._right[place] += label == gold
        self._confidence[place] += scores[label]

    def compute(self) -> Scores:
        """The error, and for each bin with texts its mean probability against its accuracy."""
        gaps = [abs(right - sure) for right, sure in zip(self._right, self._confidence, strict=True)]
        values = {"calibration_error": ratio(sum(gaps), sum(self._texts))}
        bins = list(zip(self._texts, self._right, self._confidence, strict=True))
        points = tuple((sure / texts, right / texts) for texts, right, sure in bins if texts)
        chart = Chart(
            "Reliability",
            "How often the likeliest label is right, by its probability: on the diagonal probabilities mean what they"
            " say, below it the model is too sure.",
            "mean probability of the likeliest label",
            (Series("model", points), Series("calibrated", ((0.0, 0.0), (1.0, 1.0)))),
        )
        return Scores(values, charts=(chart,) if points else (), meanings={"calibration_error": _MEANING})


PLUGIN = Calibration

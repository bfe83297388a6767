"""Settings of a decision that validation chooses: temperature, rejection, thresholds. Shapes: N texts, C classes."""

from __future__ import annotations

import numpy as np

COOLEST, HOTTEST = 0.1, 10.0
"""Bounds of the temperature."""
_MOST = np.nextafter(1.0, 0.0)
"""The highest threshold: the float before 1."""
_HALVINGS = 60
"""Bisections of an interval between them: it shrinks to less than the spacing of floats."""


def best_temperature(logits: np.ndarray, gold: np.ndarray) -> float:
    """The temperature T with the least mean negative log-likelihood of softmax(logits / T).

    1.0 where no temperature is the best: without texts, and where all are right, so that colder is always better.

    `logits` (N, C), up to a constant for each text; `gold` (N,) class ids. C. Guo et al., ICML 2017, section 4.2.
    In 1 / T the likelihood is concave, so the root of its derivative is found by bisection.
    """
    if (logits.argmax(1) == gold).all():
        return 1.0
    wanted = logits[np.arange(len(gold)), gold]

    def slope(inverse: float) -> float:
        """Derivative of the loss by 1 / T: the mean logit under the softmax less that of the gold class."""
        scaled = inverse * (logits - logits.max(1, keepdims=True))
        shares = np.exp(scaled)
        expected = (shares * logits).sum(1) / shares.sum(1)
        return float((expected - wanted).mean())

    low, high = 1 / HOTTEST, 1 / COOLEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(2 / (low + high))


def best_rejection(confidence: np.ndarray, *, right: np.ndarray, out_of_scope: np.ndarray) -> float:
    """The threshold with the best accuracy where texts with less `confidence` (N,) are called out of scope.

    `right` (N,): whether the likeliest label is right; `out_of_scope` (N,): whether rejecting is. As S. Larson et al.,
    "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction", EMNLP 2019, choose it. Of
    equally good ones the least, halfway between two texts; always above 0.
    """
    order = np.argsort(confidence, kind="stable")
    ordered = confidence[order]
    rejected = np.concatenate([[0], np.cumsum(out_of_scope[order])])  # Right if the first k texts are rejected,
    kept = np.concatenate([[0], np.cumsum(right[order])])
    correct = rejected + kept[-1] - kept  # and the others are not: (N + 1,)
    places = _cuts(ordered)
    if len(ordered) and ordered[-1] >= _MOST:  # A text that is as good as certain is above any threshold.
        places = places[:-1]
    best = places[int(np.argmax(correct[places]))]
    return _between(ordered, best)


def best_threshold(scores: np.ndarray, gold: np.ndarray) -> float | None:
    """The threshold with the best F1 where a label is predicted from it on; None where no text has the label.

    `scores` (N,), `gold` (N,) whether the text has the label. Of equally good ones the highest, halfway between two
    texts.
    """
    if not gold.any():
        return None
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    before = np.concatenate([[0], np.cumsum(gold[order])])  # Gold texts among the k with the least scores.
    found = before[-1] - before
    predicted = len(ordered) - np.arange(len(ordered) + 1)
    f1 = 2 * found / (predicted + before[-1])
    places = _cuts(ordered)
    best = places[len(places) - 1 - int(np.argmax(f1[places][::-1]))]
    return _between(ordered, best)


def _cuts(ordered: np.ndarray) -> np.ndarray:
    """How many of the ordered values can be below a threshold: equal ones stay together."""
    differ = np.flatnonzero(ordered[1:] > ordered[:-1]) + 1
    return np.concatenate([[0], differ, [len(ordered)]])


def _between(ordered: np.ndarray, count: int) -> float:
    """A threshold inside of (0, 1) with `count` of the values below."""
    below = ordered[count - 1] if count else 0.0
    above = ordered[count] if count < len(ordered) else 1.0
    middle = (below + above) / 2
    # Rounding may bring the middle of two neighbouring floats down to the lower one, and 1.0 may be a probability.
    return float(np.clip(middle if middle > below else above, np.finfo(float).tiny, _MOST))

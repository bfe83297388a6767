"""Scores by ranks: how well numbers order texts, whatever their scale. All need the numbers of all texts (N,)."""

from __future__ import annotations

import numpy as np


def mid_ranks(values: np.ndarray) -> np.ndarray:
    """(N,) ranks from 1 on; equal values share the mean of theirs.

    >>> mid_ranks(np.array([0.3, 0.1, 0.3, 0.9])).tolist()
    [2.5, 1.0, 2.5, 4.0]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[place])


def auroc(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Area under the ROC curve: how often a positive text has the higher score, a tie counting half.

    By the rank sum of Mann and Whitney (1947). None where all texts are positive, or none.
    """
    num_positive = int(positive.sum())
    pairs = num_positive * (len(positive) - num_positive)
    if not pairs:
        return None
    rank_sum = float(mid_ranks(scores)[positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / pairs


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Sum over falling thresholds of precision times the recall gained, as scikit-learn defines it.

    None where no text is positive.
    """
    if not positive.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(positive[order])
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)  # Equal scores stay together.
    precision, found = hits[ends] / (ends + 1), hits[ends]
    return float((precision * np.diff(found, prepend=0)).sum() / found[-1])

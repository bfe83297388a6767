"""Answers in conversations without a model: the commonest one, and the one to the most similar history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

MOST_PAIRS = 20_000
"""More training answers are thinned to this many, evenly: the baseline must cost little."""


def most_frequent(pairs: Sequence[tuple[str, str]]) -> str:
    """The answer that comes most often, of equally frequent ones the first. `pairs`: history, answer; at least one."""
    return Counter(answer for _, answer in pairs).most_common(1)[0][0]


def retrieval(pairs: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """From a history to the answer of the training history with the nearest TF-IDF vector (cosine), by scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    thinned = pairs[:: -(-len(pairs) // MOST_PAIRS)]
    vectorizer = TfidfVectorizer(sublinear_tf=True, token_pattern=r"\S+")
    matrix = vectorizer.fit_transform([history for history, _ in thinned])

    def nearest(history: str) -> str:
        likeness = matrix @ vectorizer.transform([history]).T
        return thinned[int(likeness.toarray().argmax())][1]

    return nearest

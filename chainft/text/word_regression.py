"""Numbers of texts and pairs by their words alone, which a trained model must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from chainft.text.bag_of_words import has_words, thinned, vectors

Pair = tuple[str, str | None]


def word_regression(texts: Sequence[str], scores: Sequence[float]) -> Callable[[Sequence[str]], list[float]] | None:
    """TF-IDF and ridge regression, by scikit-learn, for many texts at once; None where there is no word."""
    from sklearn.linear_model import Ridge

    texts, scores = thinned(texts), thinned(scores)
    if not has_words(texts):
        return None
    vectorizer, model = vectors(), Ridge()
    model.fit(vectorizer.fit_transform(texts), scores)
    return lambda others: [float(score) for score in model.predict(vectorizer.transform(others))]


def cosine_regression(
    pairs: Sequence[Pair], scores: Sequence[float]
) -> Callable[[Sequence[Pair]], list[float]] | None:
    """The straight line, by least squares, through the cosine of the TF-IDF vectors of two texts and their score.

    None where there are no pairs, no words, or all cosines are equal.
    """
    import numpy as np

    pairs, scores = thinned(pairs), thinned(scores)
    texts = [text for pair in pairs for text in pair if text is not None]
    if len(texts) < 2 * len(pairs) or not has_words(texts):
        return None
    vectorizer = vectors().fit(texts)

    def cosines_of(others: Sequence[Pair]) -> list[float]:
        first, second = (vectorizer.transform([pair[side] or "" for pair in others]) for side in (0, 1))
        return [float(one) for one in np.asarray(first.multiply(second).sum(axis=1)).ravel()]  # Rows are of length 1.

    cosines = cosines_of(pairs)
    if min(cosines) == max(cosines):
        return None
    slope, start = (float(one) for one in np.polyfit(cosines, scores, 1))
    return lambda others: [start + slope * cosine for cosine in cosines_of(others)]

"""Classifiers of texts by their words: TF-IDF and logistic regression, which a trained model must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

MOST_TEXTS = 20_000
"""More training texts are thinned to this many, evenly: the baseline must cost little."""


def bag_of_words(
    texts: Sequence[str], labels: Sequence[str], *, seed: int = 0
) -> Callable[[Sequence[str]], list[str]] | None:
    """Learns from texts and the label of each, and then tells those of many texts at once; None where there is nothing
    to learn: one label, or no word.

    Words and pairs of words, sublinear TF-IDF (Manning et al. 2008, ch. 6), logistic regression of each label against
    all others by stochastic gradient descent, all by scikit-learn.
    """
    texts, labels = thinned(texts), thinned(labels)
    if len(set(labels)) < 2 or not has_words(texts):
        return None
    vectorizer, classifier = vectors(), _regression(seed)
    classifier.fit(vectorizer.fit_transform(texts), labels)
    return lambda others: [str(label) for label in classifier.predict(vectorizer.transform(others))]


def bags_of_words(
    texts: Sequence[str], labels: Sequence[Sequence[str]], *, seed: int = 0
) -> Callable[[Sequence[str]], list[list[str]]] | None:
    """The same for any number of labels a text: a label is told where it is likelier than not.

    None where no label is there to learn, or no word.
    """
    texts, labels = thinned(texts), thinned(labels)
    names = sorted({name for one in labels for name in one})
    learned = [name for name in names if not all(name in one for one in labels)]
    always = [name for name in names if name not in learned]
    if not learned or not has_words(texts):
        return None
    vectorizer = vectors()
    matrix = vectorizer.fit_transform(texts)
    classifiers = {name: _regression(seed).fit(matrix, [name in one for one in labels]) for name in learned}

    def answers(others: Sequence[str]) -> list[list[str]]:
        rows = vectorizer.transform(others)
        told = {name: one.predict(rows) for name, one in classifiers.items()}
        return [sorted([*always, *(name for name in told if told[name][place])]) for place in range(len(others))]

    return answers


def vectors() -> Any:
    """scikit-learn's TF-IDF of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+")


def thinned(items: Sequence[T]) -> Sequence[T]:
    """At most `MOST_TEXTS`, evenly spaced."""
    return items[:: -(-len(items) // MOST_TEXTS) or 1]


def has_words(texts: Sequence[str]) -> bool:
    """Whether there is anything to count."""
    return any(any(map(str.isalnum, text)) for text in texts)


def _regression(seed: int) -> Any:
    from sklearn.linear_model import SGDClassifier

    return SGDClassifier(loss="log_loss", alpha=1e-5, random_state=seed, n_jobs=1)

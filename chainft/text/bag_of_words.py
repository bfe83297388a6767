"""A classifier of texts by their words: TF-IDF and logistic regression, which a trained model must beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

MOST_TEXTS = 20_000
"""More training texts are thinned to this many, evenly: the baseline must cost little."""


def bag_of_words(texts: Sequence[str], labels: Sequence[str], *, seed: int = 0) -> Callable[[str], str] | None:
    """Learns from texts and the label of each; None where there is nothing to learn: one label, or no word.

    Words and pairs of words, sublinear TF-IDF (Manning et al. 2008, ch. 6), logistic regression of each label against
    all others by stochastic gradient descent, all by scikit-learn.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier

    step = -(-len(texts) // MOST_TEXTS)
    texts, labels = texts[::step], labels[::step]
    if len(set(labels)) < 2 or not any(any(map(str.isalnum, text)) for text in texts):
        return None
    vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+")
    classifier = SGDClassifier(loss="log_loss", alpha=1e-5, random_state=seed, n_jobs=1)
    classifier.fit(vectorizer.fit_transform(texts), labels)
    return lambda text: str(classifier.predict(vectorizer.transform([text]))[0])

"""Token scores equal scikit-learn's over all words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import classification_report  # type: ignore[import-untyped]

from chainft.metrics.tokens import Tokens
from chainft.tasks.base import Scores

TAGS = st.sampled_from(["O", "O", "B-LOC", "I-LOC", "B-PER", "I-PER"])


def scored(*pairs: tuple[list[str], list[str]]) -> Scores:
    metric = Tokens()
    for gold, predicted in pairs:
        metric.update(gold, predicted)
    return metric.compute()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=40), st.integers(0, 40))
def test_scores_equal_scikit_learns(words: list[tuple[str, str]], cut: int) -> None:
    gold, predicted = [there for there, _ in words], [told for _, told in words]
    scores = scored((gold[:cut], predicted[:cut]), (gold[cut:], predicted[cut:]))
    labels = sorted({*gold, *predicted})
    report = classification_report(gold, predicted, labels=labels, output_dict=True, zero_division=0.0)
    for name, *cells in scores.tables[0].rows:
        if name == "micro average":
            continue
        there = report[str(name).replace("average", "avg")]
        assert cells == pytest.approx([there[key] for key in ("precision", "recall", "f1-score", "support")])
    assert scores.values["token_accuracy"] == pytest.approx(sum(one == other for one, other in words) / len(words))
    assert scores.values["token_f1_macro"] == pytest.approx(report["macro avg"]["f1-score"])
    assert scores.values["token_f1_weighted"] == pytest.approx(report["weighted avg"]["f1-score"])


def test_rows_stand_by_type_with_o_last() -> None:
    scores = scored((["O", "B-PER", "I-PER", "I-LOC", "B-LOC"], ["O", "O", "O", "O", "O"]))
    tags = ("B-LOC", "I-LOC", "B-PER", "I-PER", "O")
    averages = ("micro average", "macro average", "weighted average")
    assert tuple(row[0] for row in scores.tables[0].rows) == (*tags, *averages)
    assert scores.confusions[0].labels == tags


def test_confusion_counts_gold_rows_and_predicted_columns() -> None:
    scores = scored((["B-PER", "B-PER", "O"], ["O", "B-PER", "O"]))
    assert scores.confusions[0].counts == ((1, 1), (0, 1))


def test_no_examples_give_zero_under_every_key() -> None:
    """fault 15: no words at all."""
    scores = scored()
    assert dict(scores.values) == {"token_accuracy": 0.0, "token_f1_macro": 0.0, "token_f1_weighted": 0.0}
    assert scores.tables[0].title == "Tokens (single words; mostly O)"


def test_tags_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError):
        scored((["O", "O"], ["O"]))

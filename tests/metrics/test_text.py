"""chrF, ROUGE-L and exact match of generated texts, by hand."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.metrics.text import Text, chrf, common_subsequence, ngram_counts, rouge_l


def values_of(*pairs: tuple[str, str]) -> dict[str, float]:
    metric = Text()
    for gold, predicted in pairs:
        metric.update(gold, predicted)
    return dict(metric.compute().values)


def test_chrf_by_hand() -> None:
    """Gold abcd, predicted abce: 3 of 4 characters, 2 of 3 pairs (ab, bc), 1 of 2 triples (abc), 0 of 1 quadruple."""
    assert [tuple(count) for count in ngram_counts("abcd", "abce")[:5]] == [
        (3, 4, 4),
        (2, 3, 3),
        (1, 2, 2),
        (0, 1, 1),
        (0, 0, 0),
    ]
    both = (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4  # Precision and recall alike: the four orders that there are.
    assert chrf("abcd", "abce") == pytest.approx(both)


def test_chrf_weighs_recall_more() -> None:
    """Gold ab, predicted abcd: precision (2/4 + 1/3) / 2, recall 1, F2 = 5PR / (4P + R)."""
    precision = (2 / 4 + 1 / 3) / 2
    assert chrf("ab", "abcd") == pytest.approx(5 * precision / (4 * precision + 1))
    assert chrf("abcd", "ab") < chrf("ab", "abcd")


def test_chrf_is_of_the_corpus_not_a_mean() -> None:
    """n-grams of both texts together: 1-grams 1 of 4, 2-grams 0 of 2."""
    assert values_of(("ab", "ax"), ("cd", "yz"))["chrf"] == pytest.approx((1 / 4 + 0) / 2)


def test_white_space_does_not_count() -> None:
    assert chrf("a b  c", "abc") == 1.0
    assert values_of(("a b", " a  b\n"))["exact_match"] == 1.0


def test_rouge_l_by_hand() -> None:
    """The longest common subsequence is 'the cat on mat': 4 of 6 and 4 of 5 words."""
    assert rouge_l("The cat sat on the mat.", "the cat on a mat") == pytest.approx(2 * 4 / (6 + 5))


def test_empty_predictions_are_zero() -> None:
    assert values_of(("abc", "")) == {"chrf": 0.0, "rouge_l": 0.0, "exact_match": 0.0}


def test_no_examples_have_all_scores_and_they_are_zero() -> None:
    """fault 15: evaluation of nothing is defined."""
    assert values_of() == {"chrf": 0.0, "rouge_l": 0.0, "exact_match": 0.0}


WORDS = st.lists(st.sampled_from("abc"), max_size=7)


@given(WORDS, WORDS)
def test_common_subsequence_is_the_longest(first: list[str], second: list[str]) -> None:
    def is_in(part: tuple[str, ...], whole: list[str]) -> bool:
        rest = iter(whole)
        return all(word in rest for word in part)

    wanted = max(n for n in range(len(first) + 1) for part in combinations(first, n) if is_in(part, second))
    assert common_subsequence(first, second) == wanted

"""Exact match and F1 of answers, as SQuAD, and for Chinese as MLQA and CMRC, count them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from chainft.metrics.squad import PLUGIN, question_word
from chainft.tasks.base import Scores
from chainft.text.same_answers import Units, best_of, parts_of


def scores(
    *pairs: tuple[list[str], str], compared: Units = "words", question: str = "Who?", length: int = 100
) -> Scores:
    metric = PLUGIN()
    for answers, predicted in pairs:
        gold = {"question": question, "answers": answers, "context_length": length, "compared": compared}
        metric.update(gold, predicted)
    return metric.compute()


@pytest.mark.parametrize(
    ("golds", "predicted", "exact", "f1"),
    [
        (["Denver Broncos"], "the denver broncos.", 1, 1),
        (["Denver Broncos"], "Broncos", 0, 2 / 3),
        (["Denver Broncos", "Broncos"], "Broncos", 1, 1),
        (["a cat and a dog"], "cat dog", 0, 2 * 1 * (2 / 3) / (1 + 2 / 3)),
        (["24–10"], "24-10", 0, 0),  # Only ASCII punctuation goes: "24–10" against "2410".
        (["U.S."], "US", 1, 1),
        (["Theater"], "Theatre", 0, 0),  # `the` is an article only as a word.
        (["to to to"], "to to", 0, 0.8),
        (["Paris"], "", 0, 0),
        ([], "", 1, 1),
        ([], "Paris", 0, 0),
        (["."], "", 1, 1),  # As SQuAD 2.0: gold answers of which nothing is left count as none,
        (["the", "Paris"], "the", 0, 0),  # and do not count beside others.
        (["Straße"], "strasse", 0, 0),
    ],
)
def test_words_are_compared_as_in_squad(golds: list[str], predicted: str, exact: float, f1: float) -> None:
    """By hand from the definitions of evaluate-v1.1.py and evaluate-v2.0.py."""
    assert best_of(golds, predicted, "words") == (exact, pytest.approx(f1))


@pytest.mark.parametrize(
    ("gold", "predicted", "exact", "f1"),
    [
        ("奥斯陆", "奥斯陆。", 1, 1),
        ("在奥斯陆", "奥斯陆", 0, 6 / 7),
        ("《权力的游戏》", "权力的游戏", 1, 1),
        ("1897年", "1897", 0, 2 / 3),
        ("丹佛野马队 (Denver Broncos)", "Denver Broncos 队", 0, 2 * 3 / (7 + 3)),
        ("the 权力", "权力", 0, 0.8),  # MLQA leaves no articles out of Chinese answers.
    ],
)
def test_characters_are_compared_as_in_mlqa(gold: str, predicted: str, exact: float, f1: float) -> None:
    """By hand from the mixed segmentation of MLQA: a Chinese character is a word, punctuation of any script goes."""
    assert best_of([gold], predicted, "characters") == (exact, pytest.approx(f1))


def test_texts_with_spaces_are_the_same_in_both_ways_but_for_articles_and_marks() -> None:
    assert parts_of("New York City", "characters") == parts_of("New York City", "words")


def test_rates_with_and_without_an_answer() -> None:
    """By hand: three answered (1, 0.5, 0 of F1), two of none (one right)."""
    found = scores((["a b c d"], "b c d"), (["x y"], "y z"), (["x"], ""), ([], ""), ([], "x"))
    assert found.values == {
        "exact_match": pytest.approx(2 / 5),
        "answer_f1": pytest.approx((1 + 0.5 + 0 + 1 + 0) / 5),
        "has_answer_exact_match": pytest.approx(1 / 3),
        "has_answer_f1": pytest.approx(0.5),
        "no_answer_accuracy": pytest.approx(0.5),
    }
    assert [(row[0], row[-1]) for row in found.tables[0].rows] == [
        ("with an answer", 3),
        ("without an answer", 2),
        ("all", 5),
    ]


def test_questions_that_all_have_answers_have_two_values() -> None:
    assert set(scores((["x"], "x")).values) == {"exact_match", "answer_f1"}


def test_no_question_gives_every_name_and_no_chart() -> None:
    """So that a name of a metric can be checked before any data are read."""
    found = PLUGIN().compute()
    assert set(found.values) == set(found.meanings)
    assert set(found.values.values()) == {0.0}
    assert found.charts == ()


def test_charts_are_drawn_from_enough_questions() -> None:
    metric = PLUGIN()
    for number in range(13):
        question = "Who is it?" if number < 6 else "And in which year?"
        gold = {"question": question, "answers": ["a b"], "context_length": 100 + 50 * number, "compared": "words"}
        metric.update(gold, "b" if number < 6 else "c d e")
    charts = {chart.title: chart for chart in metric.compute().charts}
    assert charts["F1 by question word"].series[0].points == (("which", 0.0), ("who", 1.0))
    assert [name for name, _ in charts["F1 by length of the context"].series[0].points] == ["250-499", "500-749"]
    gold, predicted = charts["Length of answers"].series
    assert dict(gold.points) == {0.0: 0, 1.0: 13, 2.0: 0, 3.0: 0}
    assert dict(predicted.points) == {0.0: 0, 1.0: 6, 2.0: 0, 3.0: 7}


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("Who won?", "who"),
        ("To WHOM was it sold?", "who"),
        ("At what time?", "what"),
        ("Name one.", "other"),
        ("", "other"),
    ],
)
def test_question_word_is_the_first_one(question: str, word: str) -> None:
    assert question_word(question) == word


def test_scores_equal_those_of_torchmetrics() -> None:
    """An independent implementation of the v1.1 evaluation; values there go to 100."""
    reference: Any = pytest.importorskip("torchmetrics.functional.text", reason="torchmetrics is not installed")
    draw = random.Random(0)
    words = ["The", "a", "an", "of", "Denver", "Broncos,", "24–10", "U.S.", "don't", "(1897)", "é", "naïve", "NFL's"]
    rows = []
    for _ in range(150):
        golds = [" ".join(draw.choices(words[3:], k=draw.randint(1, 4))) for _ in range(draw.randint(1, 3))]
        given = draw.choice(golds) if draw.random() < 0.3 else " ".join(draw.choices(words, k=draw.randint(1, 5)))
        rows.append((golds, given))
    found = scores(*rows).values
    expected = reference.squad(
        [{"prediction_text": given, "id": str(number)} for number, (_, given) in enumerate(rows)],
        [
            {"answers": {"answer_start": [0] * len(golds), "text": golds}, "id": str(number)}
            for number, (golds, _) in enumerate(rows)
        ],
    )
    assert 100 * found["exact_match"] == pytest.approx(float(expected["exact_match"]), abs=1e-3)
    assert 100 * found["answer_f1"] == pytest.approx(float(expected["f1"]), abs=1e-3)

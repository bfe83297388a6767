"""Scores of code: pass@k against its definition, and texts of programs."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.metrics.code import CodeText
from chainft.metrics.pass_at_k import PassAtK, pass_at_k
from chainft.metrics.text import chrf
from chainft.tasks._code_tests import Samples, Wanted
from chainft.tasks._sandbox import Outcome

WANTED: Wanted = {"solution": "return x", "program": "def f(x):\n    return x"}


def samples(*outcomes: Outcome) -> Samples:
    return Samples("return x", WANTED["program"], outcomes)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_draws_of_k_with_a_passing_one(number: int, data: st.DataObject) -> None:
    """The definition of Chen et al., 2021, counted out."""
    passed, k = data.draw(st.integers(0, number)), data.draw(st.integers(1, number))
    draws = list(combinations([place < passed for place in range(number)], k))
    assert pass_at_k(number, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_prompts_are_averaged_and_those_without_tests_are_left_out() -> None:
    metric = PassAtK()
    metric.tries = (1, 2)
    for one in (samples("passed", "failed"), samples("timeout", "error"), Samples("", "", None)):
        metric.update(WANTED, one)
    scores = metric.compute()
    assert scores.values == {"pass_at_1": 0.25, "pass_at_2": 0.5}
    assert [row[:3] for row in scores.tables[0].rows] == [
        ("passed", 1, 0.25),
        ("failed", 1, 0.25),
        ("error", 1, 0.25),
        ("timeout", 1, 0.25),
        ("memory", 0, 0.0),
    ]
    assert "1 prompts without tests" in scores.tables[0].note
    assert scores.charts[0].series[0].points[0] == ("passed", 1.0)


def test_of_nothing_there_are_names_and_no_tables() -> None:
    assert PassAtK().compute().values == {"pass_at_1": 0.0}
    assert PassAtK().compute().tables == ()
    assert set(CodeText().compute().values) == {"chrf", "exact_match", "syntax_error_rate"}


def test_texts_of_programs_are_compared() -> None:
    metric = CodeText()
    metric.update(WANTED, Samples("return (x)", "def f(x):\n    return (x)"))
    metric.update(WANTED, Samples("return", "def f(x)\n    return"))
    values = metric.compute().values
    assert (values["exact_match"], values["syntax_error_rate"]) == (0.5, 0.5)
    one = CodeText()
    one.update(WANTED, Samples("return (x)", ""))
    assert one.compute().values["chrf"] == pytest.approx(chrf("return x", "return (x)"))

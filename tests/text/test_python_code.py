"""Answers that are code: where they end, and which program they make with their prompt."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainft.text.nearest import nearest
from chainft.text.python_code import answer_of, names_of, open_function, parsed, program_of, same_code

WORDS = "Write a function twice(x) that doubles x."
HEAD = 'import math\n\n\ndef twice(x):\n    """Double it.\n    >>> twice(1)\n    2\n    """\n'
BODY = "    y = 2 * x\n    return y"


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        (WORDS, None),
        (HEAD, "twice"),
        ("def f(x):\n", "f"),
        ("async def f(x):\n\t'''Doc.'''\n", "f"),
        ("def f(x):\n    import math\n    'Doc.'\n", "f"),
        ("def helper(x):\n    return x\n\ndef f(x):\n    'Doc.'\n", "f"),
        ("def f(x):\n    return x\n", None),
        ("x = 1", None),
        ("", None),
    ],
)
def test_a_function_without_a_body_is_open(prompt: str, name: str | None) -> None:
    assert open_function(prompt) == name


@pytest.mark.parametrize(
    "more",
    [
        "",
        "\n\n\ndef other():\n    pass",
        "\nprint(twice(3))",
        "\nclass A:\n    pass",
        "\n\nif x:\n    y",
        "\n@cache\n",
    ],
)
def test_a_body_ends_where_something_else_begins_at_the_margin(more: str) -> None:
    assert answer_of(BODY + more, HEAD) == BODY


def test_a_text_at_the_margin_inside_of_a_string_does_not_end_a_body() -> None:
    body = '    text = """\nabc\n"""\n    return text'
    assert answer_of(body + "\nprint(1)", HEAD) == body


@pytest.mark.parametrize(
    "answer", ["y = 2 * x\n    return y", "y = 2 * x\nreturn y"], ids=["first line without blanks", "all lines"]
)
def test_lost_blanks_of_a_body_are_given_back(answer: str) -> None:
    assert same_code(program_of(answer_of(answer, HEAD), HEAD), HEAD + BODY)


@pytest.mark.parametrize("mark", ["```", "~~~"])
def test_a_fenced_block_is_taken_out_of_its_words(mark: str) -> None:
    assert answer_of(f"Here:\n{mark}python\nx = 1\n{mark}\nThat is all.", WORDS) == "x = 1"
    assert answer_of(f"{mark}\nx = 1", WORDS) == "x = 1"


def test_a_whole_function_replaces_the_open_one_but_not_what_stands_before() -> None:
    answer = "def twice(x):\n    return 2 * x"
    assert program_of(answer_of(answer, HEAD), HEAD) == f"import math\n\n\n{answer}"


def test_an_answer_to_words_is_a_program_by_itself() -> None:
    assert program_of(answer_of("\ndef f():\n    pass\n", WORDS), WORDS) == "def f():\n    pass"


def test_same_code_disregards_layout_comments_and_docstrings() -> None:
    assert same_code("def f(x):\n    'Doc.'\n    return (x)  # same", "def f( x ):\n  return x")
    assert not same_code("def f(x): return x", "def f(y): return y")
    assert same_code("x = = 1", "x =  = 1")
    assert not same_code("x = = 1", "x = 1")


def test_names_at_the_top_are_found() -> None:
    assert names_of("a = 1\ndef f():\n    b = 2\nclass C: pass") == {"a", "f", "C"}
    assert names_of("def (") == frozenset()


@given(st.text(max_size=80), st.sampled_from([WORDS, HEAD, "", "def f(x):\n"]))
def test_any_answer_makes_a_program(text: str, prompt: str) -> None:
    program = program_of(answer_of(text, prompt), prompt)
    parsed(program)
    assert same_code(program, program)


def test_the_nearest_shares_what_is_rare() -> None:
    find = nearest([{"the", "cat"}, {"the", "dog"}, {"the", "cat", "dog", "sat"}])
    assert [find(words) for words in ({"dog"}, {"cat", "the"}, {"sat", "the"}, set(), {"sea"})] == [
        1,
        0,
        2,
        None,
        None,
    ]

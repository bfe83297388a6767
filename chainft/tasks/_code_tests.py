"""The tests of a coding example, and its answers run against them.

Two forms are read: HumanEval's (`test` defines `check(candidate)`, which is called with the function `entry_point`)
and MBPP's (`test_list` holds assertions, `test_setup_code` or `test_imports` what goes before them).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from chainft.data.example import Example
from chainft.errors import Problem
from chainft.tasks._sandbox import Outcome, Program, Result, Sandbox
from chainft.text.inputs import text_problems
from chainft.text.python_code import names_of, open_function, parsed, program_of

_CHECK = re.compile(r"^def[ \t]+check\b", re.MULTILINE)
LANGUAGES = ("python", "python3", "py", "py3")


@dataclass(frozen=True)
class Samples:
    """Answers to one prompt, as metrics take them."""

    answer: str
    """The first answer."""
    program: str
    """The program that it makes with its prompt."""
    outcomes: tuple[Outcome, ...] | None = None
    """What became of each answer; None where nothing was run."""


class Wanted(TypedDict):
    """The reference of one prompt, as metrics take it and as files of predictions show it."""

    solution: str
    program: str
    """With the prompt where that begins the code."""


def tests_of(example: Example) -> tuple[str, ...]:
    """The tests in order, what sets them up first; none where the example has none."""
    found = _listed(example.values.get("tests"))
    return (*_listed(example.values.get("setup")), *found) if found else ()


def entry_point_of(example: Example) -> str | None:
    """The function that `check` of the tests is called with; None where the tests call it by its name."""
    if not any(_CHECK.search(one) for one in _listed(example.values.get("tests"))):
        return None
    named = example.values.get("entry_point")
    return str(named) if named else open_function(example.values["prompt"])


def test_problems(example: Example) -> Iterator[Problem]:
    """What keeps the tests from being run, for the check of the data."""
    where, before = example.where(), None
    language = example.values.get("language")
    if isinstance(language, str) and language.casefold() not in LANGUAGES:
        help = "leave out these rows, or set data.columns.language to another column if this one says something else"
        yield Problem(
            "unknown-language", f"the language is {language!r}: only Python can be learned", where, help=help
        )
        return
    for name in ("setup", "tests"):
        listed = example.values.get(name)
        for test in listed if isinstance(listed, list) else [] if listed is None else [listed]:
            before = next(iter(text_problems(test, name, where)), None)
            if before is None and parsed(test) is None:
                before = Problem(
                    "broken-test", f"{name} is no Python: {_short(test)}", where, help="mend or drop the row"
                )
            if before is not None:
                yield before
                return
    if tests_of(example) and isinstance(example.values.get("prompt"), str) and _needs_entry_point(example):
        help = "give the name of the function in a column entry_point"
        yield Problem(
            "no-entry-point", "the tests define check(candidate), but nothing says of what", where, help=help
        )


def _needs_entry_point(example: Example) -> bool:
    has_check = any(_CHECK.search(one) for one in _listed(example.values.get("tests")))
    return has_check and entry_point_of(example) is None


def judge(example: Example, answers: Sequence[str], sandbox: Sandbox) -> list[Result]:
    """What becomes of each answer (code as `answer_of` gives it) under the tests of the example, of which there are."""
    prompt, entry_point = example.values["prompt"], entry_point_of(example)
    named = {entry_point, open_function(prompt), example.values.get("entry_point")}
    solution = example.values.get("solution")
    if isinstance(solution, str):
        named |= names_of(program_of(solution, prompt))
    may_hide = frozenset(one for one in named if one)
    programs = [Program(program_of(one, prompt), tests_of(example), entry_point, may_hide) for one in answers]
    return sandbox.run_all(programs)


def _listed(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(one for one in (value if isinstance(value, list) else [value]) if one.strip())


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:57]!r}..."

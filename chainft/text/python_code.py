"""Answers that are Python code: where they end, which program they make with their prompt, when two are the same.

A prompt is the beginning of code (HumanEval: imports, a signature, a docstring) or says in words what is wanted
(MBPP). An answer to the first goes on inside of its function; an answer to the second is a program by itself.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator

_FENCE = re.compile(r"^[ \t]*(```|~~~)[^\n]*\n(.*?)(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
_OUTSIDE = re.compile(r"^(?=[^\s)\]}#])", re.MULTILINE)
"""Beginnings of lines that stand outside of a function: no blank, no closing bracket, no comment."""
_INDENT = "    "
_NOTHING = (ast.Pass, ast.Import, ast.ImportFrom)
"""Statements that a function may have though it is still to be written."""


def parsed(code: str) -> ast.Module | None:
    """The syntax tree; None for what is no Python.

    >>> parsed("def f(:") is None
    True
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def open_function(prompt: str) -> str | None:
    r"""Name of the function that code in a prompt begins and leaves to be written; None for words and whole code.

    >>> open_function('def twice(x):\n    "Double it."\n'), open_function("Write a function that doubles x.")
    ('twice', None)
    """
    tree = parsed(prompt) or parsed(f"{prompt.rstrip()} pass\n")
    last = tree.body[-1] if tree is not None and tree.body else None
    if not isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return None
    return last.name if all(isinstance(one, _NOTHING) or _is_docstring(one) for one in last.body) else None


def answer_of(text: str, prompt: str) -> str:
    r"""The code of a generated text: out of its fence (```), and of a function body no more than the body.

    >>> answer_of("    return 2 * x\n\nprint(twice(3))", "def twice(x):\n")
    '    return 2 * x'
    >>> answer_of("Sure:\n```python\nx = 1\n```\nIt sets x.", "Set x to 1.")
    'x = 1'
    """
    fenced = _FENCE.search(text)
    code = (fenced[2] if fenced else text).rstrip()
    name = open_function(prompt)
    if name is None or _defines(code, name):
        return code.strip("\n")
    return next((one for one in _bodies(code, prompt) if parsed(_joined(prompt, one)) is not None), _cut(code))


def program_of(answer: str, prompt: str) -> str:
    r"""What is run: the answer, after the code of the prompt where it goes on from there.

    >>> print(program_of("    return 2 * x", "def twice(x):\n"))
    def twice(x):
        return 2 * x
    >>> print(program_of("def twice(x): return x + x", "import math\ndef twice(x):\n"))
    import math
    def twice(x): return x + x
    """
    name = open_function(prompt)
    if name is None:
        return answer
    if _defines(answer, name):  # The whole function again, as chat models answer.
        return f"{_before_function(prompt)}{answer}"
    return _joined(prompt, answer)


def same_code(first: str, second: str) -> bool:
    r"""Whether two programs have one syntax tree, docstrings left out; of what does not parse, the same words.

    >>> same_code("x=1 # one", "x = 1"), same_code("x = 1", "x = 2")
    (True, False)
    """
    trees = [parsed(first), parsed(second)]
    if any(tree is None for tree in trees):
        return first.split() == second.split()
    one, other = (ast.dump(_without_docstrings(tree)) for tree in trees if tree is not None)
    return one == other


def names_of(code: str) -> frozenset[str]:
    """The functions, classes and variables that code defines at its top."""
    tree = parsed(code)
    return frozenset() if tree is None else frozenset(_names(tree))


def _names(tree: ast.Module) -> Iterator[str]:
    for one in tree.body:
        if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield one.name
        elif isinstance(one, ast.Assign):
            yield from (target.id for target in one.targets if isinstance(target, ast.Name))


def _defines(code: str, name: str) -> bool:
    return re.search(rf"^(async[ \t]+)?def[ \t]+{re.escape(name)}\b", code, re.MULTILINE) is not None


def _before_function(prompt: str) -> str:
    """Imports and helpers before the function that the prompt begins."""
    starts = [match.start() for match in re.finditer(r"^(@|async[ \t]+def\b|def\b)", prompt, re.MULTILINE)]
    return prompt[: starts[-1]] if starts else ""


def _joined(prompt: str, body: str) -> str:
    return f"{prompt.rstrip()}\n{body}"


def _bodies(code: str, prompt: str) -> Iterator[str]:
    """Where the body may end, the shortest first, and how its first line may have lost its blanks."""
    ends = [*(match.start() for match in _OUTSIDE.finditer(code) if match.start() > 0), len(code)]
    blank = _indent_of(prompt)
    if code[:1].isspace():
        yield from (code[:end].rstrip() for end in ends)
        return
    if last := re.search(r"^return\b.*$", code, re.MULTILINE):  # Only a body returns: all its blanks are lost.
        yield textwrap.indent(code[: last.end()], blank)
    yield from (f"{blank}{code[:end].rstrip()}" for end in ends)
    yield textwrap.indent(code, blank)


def _cut(code: str) -> str:
    found = next((match.start() for match in _OUTSIDE.finditer(code) if match.start() > 0), len(code))
    return code[:found].rstrip()


def _indent_of(prompt: str) -> str:
    """The blanks before the docstring of the function, else four."""
    last = prompt.rstrip().rsplit("\n", 1)[-1]
    return last[: len(last) - len(last.lstrip())] or _INDENT


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        kinds = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        if isinstance(node, kinds) and node.body and _is_docstring(node.body[0]):
            node.body = node.body[1:]
    return tree


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)

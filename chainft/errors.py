"""Every failure that a user can cause or must act on, with its exit code and its printed shape.

The tree (exit code in brackets)::

    ChainftError
    ├── ConfigError       [2]   a key, a value or the command line is wrong
    ├── DataError         [3]   a file, a row or a label is wrong
    ├── ModelError        [4]   weights, tokenizer or artefact do not fit
    ├── DivergedError     [5]   loss or gradient is not finite
    ├── MemoryError_      [6]   out of memory at the smallest micro-batch
    ├── StorageError      [7]   no space, no permission, folder in use
    ├── DistributedError  [8]   a worker process failed or hung
    ├── CheckpointError   [9]   a checkpoint is damaged or incompatible
    ├── SecurityError    [10]   refused: it could run foreign code or leave its folder
    ├── Stopped          [75]   SIGTERM: saved, can be resumed
    └── Interrupted     [130]   Ctrl-C: saved, can be resumed

Anything else that reaches the top is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, where it is, and what to do about it."""

    slug: str
    """Short stable name such as `unknown-label`; printed as `error[data/unknown-label]`."""
    message: str
    """What is wrong, with the offending value; no full stop."""
    where: str | None = None
    """`file:line`, `file:line:column`, an example id or a command-line word."""
    key: str | None = None
    """Dotted config key that causes it."""
    help: str | None = None
    """What to do: the nearest right value or the next command to type."""


class ChainftError(Exception):
    """A failure to be printed without traceback. Holds one `Problem` or, where several were found, all."""

    area: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        slug: str,
        where: str | None = None,
        key: str | None = None,
        help: str | None = None,
    ) -> None:
        super().__init__(message)
        self.problems: tuple[Problem, ...] = (Problem(slug, message, where, key, help),)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> ChainftError:
        """One error that reports all of `problems` (at least one) at once."""
        found = tuple(problems)
        first = found[0]
        error = cls(first.message, slug=first.slug)
        error.problems = found
        return error

    def render(self) -> str:
        """The text for a person: at most five lines a problem."""
        return "\n".join(_render(self.area, problem) for problem in self.problems)

    def to_json(self) -> str:
        """One JSON line for programs (`--errors json`)."""
        return json.dumps(
            {
                "exit_code": self.exit_code,
                "errors": [{"area": self.area} | asdict(problem) for problem in self.problems],
            },
            ensure_ascii=False,
        )


class ConfigError(ChainftError):
    area = "config"
    exit_code = 2


class DataError(ChainftError):
    area = "data"
    exit_code = 3


class ModelError(ChainftError):
    area = "model"
    exit_code = 4


class DivergedError(ChainftError):
    area = "diverged"
    exit_code = 5


class MemoryError_(ChainftError):
    """Out of memory even at the smallest micro-batch (the underscore keeps the builtin usable)."""

    area = "memory"
    exit_code = 6


class StorageError(ChainftError):
    area = "storage"
    exit_code = 7


class DistributedError(ChainftError):
    area = "distributed"
    exit_code = 8


class CheckpointError(ChainftError):
    area = "checkpoint"
    exit_code = 9


class SecurityError(ChainftError):
    area = "security"
    exit_code = 10


class Stopped(ChainftError):
    area = "stopped"
    exit_code = 75


class Interrupted(ChainftError):
    area = "interrupted"
    exit_code = 130


def did_you_mean(word: str, words: Iterable[str]) -> str | None:
    """A hint such as `did you mean 'lr'?` for the nearest of `words`, or None when nothing is near.

    >>> did_you_mean("PERS", ["PER", "ORG"])
    "did you mean 'PER'?"
    """
    candidates = [str(candidate) for candidate in words]
    folded = {candidate.casefold(): candidate for candidate in reversed(candidates)}
    exact = folded.get(word.strip().casefold())
    near = [exact] if exact else difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else None


def _render(area: str, problem: Problem) -> str:
    lines = [f"error[{area}/{problem.slug}]: {problem.message}"]
    if problem.where:
        lines.append(f"  --> {problem.where}")
    if problem.key:
        lines.append(f"  config: {problem.key}")
    if problem.help:
        lines.append(f"  help: {problem.help}")
    return "\n".join(lines)

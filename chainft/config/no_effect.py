"""The problem of a setting that would be ignored: refused, so that nobody believes in it."""

from __future__ import annotations

from chainft.config import kinds
from chainft.errors import Problem


def no_effect(key: str, value: object, because: str, help: str | None = None) -> Problem:
    """`key` has the value `value` and would change nothing, `because` of something else."""
    return Problem("no-effect", f"{key} = {kinds.show(value)} has no effect: {because}", key=key, help=help)

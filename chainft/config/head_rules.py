"""Rules over the head: where a plug-in has no place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from chainft.config.kind_rules import WRITING
from chainft.config.run import RunConfig
from chainft.errors import Problem
from chainft.registry import find


def head_has_a_place(config: RunConfig) -> Iterator[Problem]:
    if config.head.name is None:
        return
    reason = None
    if not find("task", config.task.name, key="task.name").auto_class:
        reason = "several tasks on one trunk keep the heads of their models"
    elif config.chain.is_linked:
        reason = "linked models keep the heads of their models"
    elif find("task", config.task.name, key="task.name").auto_class in WRITING:
        reason = f"task {config.task.name!r} writes text by the word embeddings of its model"
    if reason:
        yield Problem(
            "unsupported-by-task",
            f"head.name = {config.head.name} has no place here: {reason}",
            key="head.name",
            help="leave head away",
        )


HEAD_RULES: tuple[Callable[[RunConfig], Iterator[Problem]], ...] = (head_has_a_place,)

"""Settings of `task=qa`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from chainft.config.ranges import Count, FractionBelowOne, Limits
from chainft.config.run import TaskConfig
from chainft.errors import Problem
from chainft.tasks.base import AUTO


@dataclass(frozen=True, kw_only=True)
class QaConfig(TaskConfig):
    """The answer to a question, a stretch of its context."""

    name: str = "qa"
    unanswerable: Literal["auto"] | bool = "auto"
    """Whether the context may hold no answer; auto: if training data have such questions. false refuses them."""
    null_threshold: Literal["auto"] | float = "auto"
    """No answer is given where its score exceeds that of the best answer by more than this; auto: chosen on validation
    for the best F1 (0 without validation). Scores are log-probabilities."""
    max_answer_tokens: Count = 30
    """Most tokens of an answer that is predicted."""
    num_best: Count = 5
    """How many answers a prediction lists, each with its probability."""
    overflow: Literal["window", "truncate", "error"] = "window"
    """What an over-long context does: become windows, lose its end, or stop the run."""
    window_overlap: Annotated[int, Limits(low=0)] | FractionBelowOne = 0.25
    """What two windows share: tokens (whole number), or a share of the room for the context; at most half. An answer of
    up to so many tokens is whole in one of them."""
    compare: Literal["auto", "words", "characters"] = "auto"
    """What scores compare: words as SQuAD does, or characters of scripts without spaces as MLQA and CMRC do; auto: by
    the script of each context."""
    metrics: tuple[str, ...] = ("squad",)
    """What evaluation counts."""

    def without_effect(self) -> Iterator[Problem]:
        """Settings that others make pointless."""
        if self.null_threshold != AUTO and self.unanswerable is False:
            because = "task.unanswerable=false always answers"
            yield Problem("no-effect", f"task.null_threshold has no effect: {because}", key="task.null_threshold")
        if self.window_overlap != QaConfig.window_overlap and self.overflow != "window":
            because = f"task.overflow = {self.overflow!r} makes no windows"
            yield Problem("no-effect", f"task.window_overlap has no effect: {because}", key="task.window_overlap")

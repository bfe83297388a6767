"""Settings of the ner task, and which of them do not go together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from chainft.config.ranges import CountOrZero, FractionBelowOne, Positive
from chainft.config.run import TaskConfig
from chainft.errors import Problem


@dataclass(frozen=True, kw_only=True)
class NerConfig(TaskConfig):
    """One tag a word."""

    name: str = "ner"
    scheme: Literal["auto", "iob1", "iob2", "bioes", "bilou", "io"] = "auto"
    """Tagging scheme of the data; auto: found from all tags. The model always learns iob2."""
    overlap: CountOrZero | None = None
    """Most tokens that two windows of an over-long sentence share; default 64, at most a quarter of a window."""
    context: Literal["sentence", "document"] = "sentence"
    """What the model reads beside a sentence: nothing, or the words around it in its document, as far as there is room."""
    max_context: CountOrZero | None = None
    """With `context: document`: most tokens of it on each side; default 64."""
    crf: bool = False
    """A linear-chain CRF on the head, which learns how tags follow each other; its loss too is the mean of all words."""
    crf_lr: Positive | None = None
    """Learning rate of the CRF's scores; default that of the head."""
    decoding: Literal["greedy", "viterbi"] | None = None
    """How tags are chosen: each word's likeliest, an I- that goes on nothing told as B- (greedy, the default), or the
    likeliest legal sequence (viterbi, always with `crf`)."""
    label_smoothing: FractionBelowOne = 0.0
    """Share of the target that is spread evenly over all tags."""
    class_weights: Literal["balanced"] | Mapping[str, Positive] | None = None
    """Weight of each tag in the loss: null (all 1), balanced (rare ones more), or numbers such as `{B-PER: 2}`."""
    metrics: tuple[str, ...] = ("entities", "tokens")
    """What evaluation counts."""

    def without_effect(self) -> Iterator[Problem]:
        """Settings that others make pointless or impossible."""
        if self.max_context is not None and self.context == "sentence":
            help = "set task.context=document as well"
            yield Problem(
                "no-effect", "task.max_context has no effect on single sentences", key="task.max_context", help=help
            )
        if self.crf_lr is not None and not self.crf:
            yield Problem("no-effect", "task.crf_lr has no effect without task.crf", key="task.crf_lr")
        for name in ("label_smoothing", "class_weights") if self.crf else ():
            if getattr(self, name):
                because = "a CRF's loss is of whole sequences, not of single tags"
                yield Problem("contradiction", f"task.{name} is not possible: {because}", key=f"task.{name}")
        if self.crf and self.decoding == "greedy":
            because = "a CRF's tags are those of the likeliest sequence"
            help = "leave it away, or set task.crf=false"
            yield Problem(
                "contradiction", f"task.decoding = 'greedy' is not possible: {because}", key="task.decoding", help=help
            )

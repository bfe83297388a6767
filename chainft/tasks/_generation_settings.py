"""Settings of every task that writes texts: how the source is put, and how the answer is searched or drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from chainft.config.no_effect import no_effect
from chainft.config.ranges import Count, CountOrZero, Limits, Positive, Seed
from chainft.config.run import TaskConfig
from chainft.errors import Problem

DEFAULT_SEED = 42
Probability = Annotated[float, Limits(low=0, high=1, open_low=True)]


@dataclass(frozen=True, kw_only=True)
class TextToTextConfig(TaskConfig):
    """What tasks that answer a text with a text have in common."""

    template: str = "auto"
    """What is laid around the instruction: text with the name of the source column in braces, chat (the tokenizer's
    own), or auto: chat where there is one, else a line end for decoders and nothing for encoder-decoders."""
    instruction: str = "auto"
    """What the model is told: text with the name of the source column in braces; auto: the task's own words."""
    overflow: Literal["error", "truncate_start", "truncate_end"] = "error"
    """What a source without room does: stop the run, or lose its first or last tokens, which is counted and told."""
    max_new_tokens: Count = 64
    """Most tokens of a generated answer."""
    min_new_tokens: CountOrZero = 0
    """Least tokens of a generated answer: its end is not allowed before."""
    num_beams: Count = 1
    """Answers that are searched side by side; 1: always the likeliest next token."""
    length_penalty: float | None = None
    """With beams: answers are compared by their log-probability / length ** this; more favours longer ones; default 1."""
    no_repeat_ngram_size: Annotated[int, Limits(low=2)] | None = None
    """No row of so many tokens may come twice, in a decoder those of its prompt included; default: any may."""
    do_sample: bool = False
    """Draw each token by its probability instead of taking the likeliest; reproducible by `sampling_seed`."""
    temperature: Positive | None = None
    """With `do_sample`: logits are divided by it; default 1."""
    top_k: Count | None = None
    """With `do_sample`: draw from so many likeliest tokens; default: all."""
    top_p: Probability | None = None
    """With `do_sample`: draw from the likeliest tokens whose probabilities together reach it; default: all."""
    sampling_seed: Seed | None = None
    """With `do_sample`: an answer is a function of this seed, the weights and its source alone; default 42."""
    num_return_sequences: Count = 1
    """How many answers `chainft predict` gives, best first: of beams at most `num_beams`, or so many draws."""
    generate_in_evaluation: bool = True
    """Write answers in evaluation too and compare them (slow); false: evaluation measures the loss only."""
    metrics: tuple[str, ...] | None = None
    """What evaluation counts over generated answers; default: the task's own."""

    def problems(self) -> Iterator[Problem]:
        """Settings that contradict each other or that others make pointless."""
        yield from self._contradictions()
        if not self.do_sample:
            for name in ("temperature", "top_k", "top_p", "sampling_seed"):
                if getattr(self, name) is not None:
                    because, help = "the likeliest token is taken", "set task.do_sample=true as well"
                    yield no_effect(f"task.{name}", getattr(self, name), because, help)
        if self.length_penalty is not None and self.num_beams == 1:
            because, help = "there are no beams to compare", "set task.num_beams=4 or so as well"
            yield no_effect("task.length_penalty", self.length_penalty, because, help)
        if self.metrics is not None and not self.generate_in_evaluation:
            because = "evaluation measures the loss only"
            yield no_effect("task.metrics", list(self.metrics), because, "set task.generate_in_evaluation=true")

    def _contradictions(self) -> Iterator[Problem]:
        if self.min_new_tokens > self.max_new_tokens:
            message = (
                f"task.min_new_tokens = {self.min_new_tokens} is more than task.max_new_tokens = {self.max_new_tokens}"
            )
            yield Problem("contradiction", message, key="task.min_new_tokens")
        if self.do_sample and self.num_beams > 1:
            message = (
                f"task.do_sample = true draws one answer at a time, task.num_beams = {self.num_beams} searches several"
            )
            yield Problem("contradiction", message, key="task.num_beams", help="choose one of them")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            message = f"task.num_return_sequences = {self.num_return_sequences}, but there are {self.num_beams} beams"
            help = f"set task.num_beams={self.num_return_sequences} or more, or task.do_sample=true"
            yield Problem("contradiction", message, key="task.num_return_sequences", help=help)

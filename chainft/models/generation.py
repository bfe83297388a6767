"""Batched generation that gives each prompt the same response whatever it is batched with. B rows, P longest prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel


def generate(
    model: PreTrainedModel,
    input_ids: Tensor,
    prompt_lengths: Tensor,
    *,
    pad_token_id: int,
    eos_token_id: int,
    max_new_tokens: int,
    num_beams: int,
) -> list[np.ndarray]:
    """The new tokens of each row without the end token; `input_ids` (B, L) begin with the prompts, padded right.

    Greedy or beam search, never sampling: settings that the model brings for sampling do not count, but
    its own end tokens do.
    """
    prompts, mask = pad_left(input_ids, prompt_lengths, pad_token_id)
    ends = sorted({eos_token_id, *_ends_of(model)})
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        do_sample=False,
        use_cache=True,
        pad_token_id=pad_token_id,
        eos_token_id=ends,
    )
    with _only(config, model):
        output: Tensor = model.generate(  # type: ignore[operator]
            inputs=prompts, attention_mask=mask, generation_config=config
        )
    rows = output[:, prompts.shape[1] :].cpu().numpy()
    return [row[: _first_end(row, ends)].astype(np.int32) for row in rows]


def pad_left(input_ids: Tensor, lengths: Tensor, pad_token_id: int) -> tuple[Tensor, Tensor]:
    """The first `lengths` (B,) tokens of each row at the right border of (B, P), and the attention mask (B, P)."""
    longest = int(lengths.max())
    shift = longest - lengths[:, None]
    places = torch.arange(longest, device=input_ids.device)[None, :]
    mask = places >= shift
    taken = input_ids.gather(1, (places - shift).clamp(min=0))
    return taken.masked_fill(~mask, pad_token_id), mask.long()


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

"""Drawing tokens so that an answer depends on its seed and its source alone, not on what it is batched with.

The likeliest of log-probabilities plus independent Gumbel noise is a draw by these probabilities (Gumbel-max: E. J.
Gumbel, "Statistical Theory of Extreme Values", 1954). So drawing is greedy search over noisy logits, and each row has
a generator of its own. R rows (an answer each), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


class RowNoise(LogitsProcessor):
    """Adds noise of each row's own generator to its logits."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        """`generators`: R, on the CPU, so that every device draws the same."""
        self.generators = generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(R, V) of the logits (R, V)."""
        waits = torch.empty(scores.shape, dtype=torch.float64)
        for row, generator in zip(waits, self.generators, strict=True):
            row.exponential_(generator=generator)
        return scores.float() - waits.log().float().to(scores.device)


def samplers(
    prompts: Sequence[np.ndarray], *, count: int, seed: int, temperature: float, top_k: int | None, top_p: float | None
) -> LogitsProcessorList:
    """What makes greedy search draw `count` answers to each prompt (rows in that order)."""
    found = LogitsProcessorList()
    if temperature != 1.0:
        found.append(TemperatureLogitsWarper(temperature))
    if top_k is not None:
        found.append(TopKLogitsWarper(top_k))
    if top_p is not None and top_p < 1.0:
        found.append(TopPLogitsWarper(top_p))
    found.append(RowNoise([_generator(prompt, seed, number) for prompt in prompts for number in range(count)]))
    return found


def _generator(prompt: np.ndarray, seed: int, number: int) -> torch.Generator:
    """That of answer `number` to a prompt."""
    state = np.random.SeedSequence([seed, number, *prompt.tolist()]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))

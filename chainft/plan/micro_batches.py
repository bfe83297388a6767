"""How many rows go through the model at once where nothing else limits them. No torch here."""

from __future__ import annotations

import math

from chainft.config.run import RunConfig

MICRO_BATCHES_A_PLACE = 4
"""Of a pipeline: so many keep a place idle for less than a fifth of the time (Huang et al. 2019, arXiv:1811.06965, 2.3)."""


def configured_rows(config: RunConfig, num_copies: int = 1) -> int:
    """Most rows in one forward pass while memory suffices; of a pipeline, few enough that all places work at once."""
    if config.train.micro_batch_size is None and config.launch.is_pipeline:
        a_copy = config.train.batch_size / num_copies
        return max(1, math.ceil(a_copy / (MICRO_BATCHES_A_PLACE * config.launch.pipeline)))
    return config.train.micro_batch_size or config.train.batch_size

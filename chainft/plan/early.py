"""Finds what does not fit between a chain and its model before data and weights are read: on a model without weights."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from chainft.config.run import RunConfig
from chainft.plan.followed import without_imports
from chainft.plan.probe import NUM_LABELS, ghostly, new_skeleton, new_task
from chainft.stages.blocks import find_blocks
from chainft.stages.chain import build_chain, is_trivial, stage_spans
from chainft.stages.policy import recompute_all


def check_fit(config: RunConfig) -> None:
    """Raise the ChainftErrors that `build_chain` would raise on the loaded model: ranges, patterns, overlaps, widths.

    Of `split: auto`, whose cuts come from measuring, only the number and the names of the stages.
    """
    if is_trivial(config.chain):
        return
    with ghostly(), _silent():
        model = new_skeleton(config, new_task(config, NUM_LABELS))
        if config.chain.split == "auto":
            stage_spans(find_blocks(model), dataclasses.replace(config.chain, split=config.chain.num_stages))
            return
        chain = build_chain(model, without_imports(config))
        if config.train.gradient_checkpointing:
            recompute_all(model)
        chain.set_recomputation()


@contextmanager
def _silent() -> Iterator[None]:
    """Warnings come when the chain is built for good."""
    theirs = [logging.getLogger(name) for name in ("chainft.stages", "transformers")]
    levels = [one.level for one in theirs]
    for one in theirs:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(theirs, levels, strict=True):
            one.setLevel(level)

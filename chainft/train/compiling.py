"""Whether blocks are compiled in training, as `train.compile` says."""

from __future__ import annotations

from transformers import PreTrainedModel

from chainft.config.run import RunConfig
from chainft.data.store import FeatureStore
from chainft.errors import ConfigError, ModelError
from chainft.stages.blocks import Blocks, find_blocks
from chainft.stages.compiled import Compiled
from chainft.stages.links import LinkedModel
from chainft.stages.packing import Packing
from chainft.train.learner import Course

WORTH = 2e16
"""Floating-point operations of a training from which on compiling pays: two minutes or so of a large GPU. A fixed number,
not a measured time, so that the same run is compiled each time."""


def find_compiled(
    model: PreTrainedModel, config: RunConfig, store: FeatureStore, packing: Packing | None
) -> Compiled | None:
    """The blocks, to be compiled when they first train; None where they run as they are.

    `packing`: how batches run without padding. Raises ConfigError where `train.compile=true` cannot be.
    """
    wanted = config.train.compile
    if wanted is False or (wanted == "auto" and model.device.type != "cuda"):
        return None
    because = None
    blocks: Blocks | None = None
    if config.launch.divides:
        because = "stages of a divided model come and go"
    elif isinstance(model, LinkedModel):
        because = "linked models are several"
    elif model.device.type not in ("cuda", "cpu"):
        because = f"it is for CUDA GPUs and CPUs, and the run computes on {model.device.type}"
    else:
        try:
            blocks = find_blocks(model)
        except ModelError as error:
            because = str(error)
    if packing is not None and not packing.has_kernel:
        because = "batches run without padding by an attention that cannot be compiled (train.padding_free=false pads)"
    if because and wanted is True:
        raise ConfigError(
            f"train.compile = true is not possible: {because}",
            slug="unsupported-by-model",
            key="train.compile",
            help="leave it away",
        )
    if because or blocks is None or (wanted == "auto" and _work(blocks, config, store) < WORTH):
        return None
    return Compiled(model, longest=int(store.lengths.max()))


def _work(blocks: Blocks, config: RunConfig, store: FeatureStore) -> float:
    """Operations of a training of all blocks: 6 for each parameter and token (Kaplan et al. 2020, arXiv:2001.08361)."""
    weights = sum(one.numel() for _, one, block in blocks.parameters() if block is not None)
    course = Course.of(config, len(store.first_of) - 1)
    return 6.0 * weights * float(store.lengths.sum()) * course.epoch_at(course.total_steps)

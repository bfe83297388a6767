"""Whether blocks are compiled in training (`train.compile`) and recorded (`train.cuda_graphs`), and what they hand on
(`train.hidden_dtype`)."""

from __future__ import annotations

import logging

import torch
from transformers import PreTrainedModel

from chainft.config.run import RunConfig
from chainft.data.store import FeatureStore
from chainft.errors import ConfigError, ModelError, Problem
from chainft.stages.blocks import Blocks, find_blocks
from chainft.stages.compiled import Compiled, what_is_missing
from chainft.stages.cuda_graphs import NO_LIMIT, Graphs
from chainft.stages.links import LinkedModel
from chainft.stages.packing import Packing
from chainft.stages.precision import set_hidden_dtype
from chainft.stages.recording import CudaRecorder
from chainft.train.learner import Course

logger = logging.getLogger(__name__)

WORTH = 2e16
"""Floating-point operations of a training from which on compiling pays: two minutes or so of a large GPU.

A fixed number, not a measured time, so that the same run is compiled each time.
"""


_HOST_BOUND = 2e11
"""Tokens times weights of a block up to which the host takes longer to start its kernels than a large GPU to compute: one
that multiplies at 800 TFLOP/s takes 4 ms for more, forward and backward, a slow host 3 (`scripts/bench_gpu.py`)."""


def find_compiled(
    model: PreTrainedModel, config: RunConfig, store: FeatureStore, packing: Packing | None
) -> Compiled | None:
    """The blocks, to be compiled when they first train; None where they run as they are.

    `packing`: how batches run without padding, which is told of them. Raises ConfigError where `train.compile=true`
    cannot be.
    """
    wanted, device = config.train.compile, model.device
    if wanted is False or (wanted == "auto" and device.type != "cuda"):
        return None
    blocks = _blocks_of(model, config)
    because = blocks if isinstance(blocks, str) else what_is_missing(device)
    if device.type not in ("cuda", "cpu"):
        because = f"it is for CUDA GPUs and CPUs, and the run computes on {device.type}"
    if packing is not None and not packing.has_kernel:
        because = "batches run without padding by an attention that cannot be compiled (train.padding_free=false pads)"
    if because and wanted is True:
        raise ConfigError(
            f"train.compile = true is not possible: {because}",
            slug="unsupported-by-model",
            key="train.compile",
            help="leave it away",
        )
    if isinstance(blocks, str) or (wanted == "auto" and _work(blocks, config, store) < WORTH):
        return None
    if because:
        logger.warning("blocks are not compiled, which takes longer: %s", because)
        return None
    compiled = Compiled(model, longest=int(store.lengths.max()))
    if packing is not None:
        packing.compiled = compiled
    return compiled


def find_graphs(
    model: PreTrainedModel, config: RunConfig, store: FeatureStore, packing: Packing | None, *, is_alone: bool
) -> Graphs | None:
    """Recordings of the blocks' passes, made when they train; None where the host starts every kernel.

    `is_alone`: whether one process trains the model. Raises ConfigError where `train.cuda_graphs=true` cannot be.
    """
    wanted, because = config.train.cuda_graphs, None
    if model.device.type != "cuda":
        because = f"it is for CUDA GPUs, and the run computes on {model.device.type}"
    elif packing is None or not packing.has_kernel:
        because = "it is for batches without padding (train.padding_free=true tells why this model's have some)"
    elif not is_alone:
        because = "it is for one process, and several train the model"
    if because and wanted is True:
        raise ConfigError(
            f"train.cuda_graphs = true is not possible: {because}",
            slug="unsupported-by-model",
            key="train.cuda_graphs",
            help="leave it away",
        )
    if because or wanted is False or packing is None:
        return None
    blocks = packing.gates.blocks
    weights = sum(one.numel() for _, one, block in blocks.parameters() if block is not None) / blocks.num_blocks
    most = NO_LIMIT if wanted is True else int(_HOST_BOUND // max(1.0, weights))
    packing.graphs = Graphs(model, CudaRecorder(), longest=int(store.lengths.max()), most=most)
    return packing.graphs


def check_blocks_are_left(model: PreTrainedModel, config: RunConfig, start: int) -> None:
    """Raises ConfigError where `train.compile=true` or `train.cuda_graphs=true` and no block is computed: outputs of those
    before `start` are kept."""
    wanted = {"train.compile": config.train.compile, "train.cuda_graphs": config.train.cuda_graphs}
    keys = [key for key, value in wanted.items() if value is True]
    if keys and start >= find_blocks(model).num_blocks:
        raise ConfigError.of(
            Problem(
                "no-effect",
                f"{key} = true has no effect: all blocks are frozen, and their outputs are kept",
                key=key,
                help="leave it away",
            )
            for key in keys
        )


def round_hidden(model: PreTrainedModel) -> None:
    """Hand hidden states on in bfloat16 (`train.hidden_dtype`). Raises ConfigError for a model without blocks."""
    try:
        blocks = find_blocks(model)
    except ModelError as error:
        raise ConfigError(
            f"train.hidden_dtype = bfloat16 is not possible: {type(model).__name__} has no blocks that can be told apart",
            slug="unsupported-by-model",
            key="train.hidden_dtype",
            help="leave it away",
        ) from error
    set_hidden_dtype(model, {blocks.path_of(block) for block in range(blocks.num_blocks)}, torch.bfloat16)


def _blocks_of(model: PreTrainedModel, config: RunConfig) -> Blocks | str:
    """The blocks that can be compiled; or why there are none."""
    if config.launch.divides:
        return "stages of a divided model come and go"
    if isinstance(model, LinkedModel):
        return "linked models are several"
    try:
        return find_blocks(model)
    except ModelError:
        return f"{type(model).__name__} has no blocks that can be told apart"


def _work(blocks: Blocks, config: RunConfig, store: FeatureStore) -> float:
    """Operations of a training of all blocks: 6 for each parameter and token (Kaplan et al. 2020, arXiv:2001.08361)."""
    weights = sum(one.numel() for _, one, block in blocks.parameters() if block is not None)
    course = Course.of(config, len(store.first_of) - 1)
    return 6.0 * weights * float(store.lengths.sum()) * course.epoch_at(course.total_steps)

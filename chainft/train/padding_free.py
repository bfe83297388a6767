"""Whether batches run without padding in training, as `train.padding_free` says."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from chainft.config.run import RunConfig
from chainft.errors import ConfigError
from chainft.stages import flash_rows
from chainft.stages.chain import Chain
from chainft.stages.links import LinkedModel
from chainft.stages.packing import Packing, packing_of

_KERNEL_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""`train.mixed_precision` for which GPUs have an attention for rows of different length."""


def find_packing(model: PreTrainedModel, config: RunConfig, chain: Chain) -> Packing | None:
    """How batches run without padding; None where they run padded, as configured or because the model wants it.

    Raises ConfigError where `train.padding_free=true` cannot be.
    """
    wanted = config.train.padding_free
    dtype = _KERNEL_TYPES.get(config.train.mixed_precision)
    by_kernel = dtype is not None and flash_rows.is_available(model.device)
    if wanted is False or (wanted == "auto" and model.device.type != "cpu" and not by_kernel):
        return None
    recomputed = config.train.gradient_checkpointing or any(part.config.gradient_checkpointing for part in chain.parts)
    because = None
    found = None
    if config.launch.divides:
        because = "a model that is sharded or cut into stages runs by its own forward pass"
    elif recomputed:
        because = "activations are recomputed, which needs the batch as the blocks had it"
    elif isinstance(model, LinkedModel):
        because = "linked models hand padded hidden states on"
    elif model.config.is_encoder_decoder:
        because = "an encoder-decoder reads two sequences at once"
    elif config.train.compile is True and not by_kernel:
        because = "train.compile = true compiles blocks that run padded batches (but on a GPU in 16 bits)"
    elif (found := packing_of(model)) is None:
        because = f"{type(model).__name__} computes other hidden states then"
    if found is not None and by_kernel:
        assert dtype is not None
        found.try_kernel(dtype)
        if not found.has_kernel and wanted == "auto":
            return None  # Row by row of a group it takes more, smaller kernels than padded.
    if because and wanted is True:
        raise ConfigError(
            f"train.padding_free = true is not possible: {because}",
            slug="unsupported-by-model",
            key="train.padding_free",
            help="leave it away: batches are cut by length, so that little is padded",
        )
    return found

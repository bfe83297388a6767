"""Whether batches run without padding in training, as `train.padding_free` says."""

from __future__ import annotations

from transformers import PreTrainedModel

from chainft.config.run import RunConfig
from chainft.errors import ConfigError
from chainft.stages.chain import Chain
from chainft.stages.links import LinkedModel
from chainft.stages.packing import Packing, packing_of


def find_packing(model: PreTrainedModel, config: RunConfig, chain: Chain) -> Packing | None:
    """How batches run without padding; None where they run padded, as configured or because the model wants it.

    Raises ConfigError where `train.padding_free=true` cannot be.
    """
    wanted = config.train.padding_free
    if wanted is False or (wanted == "auto" and model.device.type != "cpu"):
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
    elif (found := packing_of(model)) is None:
        because = f"{type(model).__name__} computes other hidden states then"
    if because and wanted is True:
        raise ConfigError(
            f"train.padding_free = true is not possible: {because}",
            slug="unsupported-by-model",
            key="train.padding_free",
            help="leave it away: batches are cut by length, so that little is padded",
        )
    return found

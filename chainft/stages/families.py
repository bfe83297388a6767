"""What single families of architectures need beyond the general way, and which ones are refused, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from chainft.errors import ModelError
from chainft.stages.blocks import Blocks
from chainft.stages.spans import Span

REFUSED: Mapping[str, str] = {
    "longt5": "its blocks hand biases of two kinds of attention on to each other",
    "xlnet": "its blocks carry two streams of hidden states",
    "reformer": "its blocks are reversible and hold two hidden states",
    "squeezebert": "its blocks compute on transposed hidden states, which they return by name",
    "funnel": "its blocks shorten the sequence",
    "pegasus_x": "its encoder's blocks carry a second hidden state, of global tokens",
    "switch_transformers": "its loss needs what the routers of all blocks put out",
}
"""`model_type` -> why its stages cannot be run one by one."""

_BIAS_IN_FIRST_BLOCK = ("t5", "mt5")
"""They compute the relative position bias in block 0 and hand it on (modeling_t5.py, `T5Attention`)."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a parent calls a block with, by position and by name."""


def check_family(model: PreTrainedModel) -> None:
    """Raise ModelError for a family that is refused."""
    kind = model.config.model_type
    if kind in REFUSED:
        raise ModelError(
            f"{type(model).__name__} cannot be cut into stages: {REFUSED[kind]}",
            slug="refused-family",
            key="chain",
            help="train it without a chain, or take another architecture",
        )


def check_start(model: PreTrainedModel, span: Span) -> None:
    """Raise ModelError where a span begins at a place at which its family's forward pass needs more than one state."""
    has_convolution = model.config.model_type == "deberta-v2" and getattr(model.config, "conv_kernel_size", 0) > 0
    if has_convolution and span.start == 0 and not span.embeddings:
        raise ModelError(
            f"{type(model).__name__} cannot be cut between its embeddings and block 0, "
            "because its convolution after block 0 reads the embeddings too",
            slug="refused-cut",
            key="chain",
            help="put the embeddings and block 0 into one stage",
        )


def with_bias(blocks: Blocks, number: int, hidden: Tensor, arguments: Arguments) -> Arguments:
    """The arguments of the first block of a span, with the bias that block 0 of its stack would have handed on.

    `hidden`: (batch, length, width). The bias, (1, heads, length, length), is an argument: a module that is lent for
    the time of the call would be gone when a checkpointed block is computed once more in the backward pass.
    """
    first = _first_of_stack(blocks, number)
    if number == first or blocks.model.config.model_type not in _BIAS_IN_FIRST_BLOCK:
        return arguments
    length = hidden.shape[1]
    block: Any = blocks.module(first)
    bias = block.layer[0].SelfAttention.compute_bias(length, length, device=hidden.device)
    args, kwargs = arguments
    if len(args) > 2:  # hidden_states, attention_mask, position_bias, ...
        return (*args[:2], bias, *args[3:]), kwargs
    return args, {**kwargs, "position_bias": bias}


def _first_of_stack(blocks: Blocks, number: int) -> int:
    first = 0
    for stack in blocks.stacks:
        if number < first + stack.size:
            break
        first += stack.size
    return first

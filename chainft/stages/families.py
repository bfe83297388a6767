"""What single families of architectures need beyond the general way, and which ones are refused, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

from chainft.errors import ModelError
from chainft.stages.blocks import Blocks

REFUSED: Mapping[str, str] = {
    "longt5": "its blocks hand biases of two kinds of attention on to each other",
    "xlnet": "its blocks carry two streams of hidden states",
    "reformer": "its blocks are reversible and hold two hidden states",
    "squeezebert": "its blocks compute on transposed hidden states, which they return by name",
    "funnel": "its blocks shorten the sequence",
}
"""`model_type` -> why its stages cannot be run one by one."""

_BIAS_IN_FIRST_BLOCK = ("t5", "mt5")
"""They compute the relative position bias in block 0 and hand it on (modeling_t5.py, `T5Attention`)."""


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


@contextmanager
def lend_bias(blocks: Blocks, start: int) -> Iterator[None]:
    """Let the first block of a span compute the bias that block 0 of its stack would have handed on."""
    if blocks.model.config.model_type not in _BIAS_IN_FIRST_BLOCK:
        yield
        return
    first = 0
    for stack in blocks.stacks:
        if first < start < first + stack.size:
            break
        first += stack.size
    else:
        yield
        return
    source, target = _attention(blocks, first), _attention(blocks, start)
    target._modules["relative_attention_bias"] = source.relative_attention_bias
    target.has_relative_attention_bias = True
    try:
        yield
    finally:
        del target._modules["relative_attention_bias"]
        target.has_relative_attention_bias = False


def _attention(blocks: Blocks, block: int) -> Any:
    module: Any = blocks.module(block)
    return module.layer[0].SelfAttention

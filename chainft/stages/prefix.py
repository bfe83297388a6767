"""The beginning of a model that training cannot change: how far it goes, and why not further.

What its blocks put out is a function of a row of tokens alone if no parameter of it is trained, ever, if it draws no
random numbers in training, and if it does not see how far a row is padded. All three are tried on the model itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chainft.errors import ModelError
from chainft.stages.chain import Chain
from chainft.stages.gates import Gates, probe_inputs
from chainft.stages.modes import evaluating
from chainft.stages.owners import live
from chainft.stages.parts import Part
from chainft.stages.random_state import RandomState
from chainft.stages.spans import Span

_PADDING = 5
_OTHER_TOKEN = 9
_ROUNDING = 0.02
"""How much the extent of padding may change a state, as a share of the largest value: as 16 bits round."""
_NOT_OF_THE_BODY = (
    "architectures", "id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "transformers_version",
    "dtype", "torch_dtype", "use_cache",
)  # fmt: skip
"""Entries of a model's config that name the head or where it came from. Rates of dropout are left out too."""


@dataclass(frozen=True)
class Obstacle:
    """Why the outputs of frozen stages cannot be kept."""

    because: str
    remedy: str


@dataclass(frozen=True)
class Prefix:
    """The frozen beginning."""

    span: Span
    rest: Span
    """The span of everything that follows."""
    blocks: str
    """As a user writes it."""
    stages: tuple[str, ...]


class BlockPrefix:
    """The frozen leading blocks of one model."""

    def __init__(self, gates: Gates, prefix: Prefix) -> None:
        self.gates = gates
        self.prefix = prefix
        self.model = gates.model
        self.blocks, self.stages = prefix.blocks, prefix.stages

    def probe(self) -> dict[str, Tensor]:
        """A batch of one short text."""
        return probe_inputs(self.model)

    def states(self, inputs: dict[str, Tensor]) -> Tensor:
        """(B, L, D) at their end, in evaluation mode."""
        return prefix_states(self.gates, self.prefix.span, inputs)

    def digest(self) -> str:
        """Digest of all that the states depend on beside the rows."""
        return prefix_digest(self.gates, self.prefix)


def find_prefix(chain: Chain, gates: Gates, *, pad_token_id: int) -> Prefix | Obstacle:
    """The longest row of leading stages whose outputs are the same in every step; at most an encoder."""
    obstacle: Obstacle | None = None
    found: tuple[Span, tuple[str, ...]] | None = None
    seam = gates.blocks.stacks[0].size
    for part in chain.parts:
        stop = min(chain.spans[part.name].stop, seam)
        span = Span(0, stop, embeddings=True, head=False)
        obstacle = _obstacle(part, span, chain, gates, pad_token_id)
        if obstacle is not None:
            break
        found = (span, (*(found[1] if found else ()), part.name))
        if stop == seam:
            break
    if found is None or found[0].stop == 0:
        return obstacle or Obstacle("no block is in the frozen stages", "freeze a stage that has blocks")
    span, stages = found
    rest = Span(span.stop, gates.blocks.num_blocks, embeddings=False, head=True)
    return Prefix(span, rest, span.within(gates.blocks.map), stages)


def _obstacle(part: Part, span: Span, chain: Chain, gates: Gates, pad_token_id: int) -> Obstacle | None:
    """Why the stage cannot be the end of the prefix `span`."""
    if (is_trained := never_trained(part)) is not None:
        return is_trained
    parameters = dict(gates.model.named_parameters(remove_duplicate=False))
    if trained := sorted(name for name in live(gates, span) if chain.trains(parameters[name])):
        return Obstacle(
            f"stage {part.name!r} computes with {trained[0]}, which another stage trains",
            "freeze that stage too, or do not share the parameter",
        )

    def run() -> None:
        gates.run(span, None, probe_inputs(gates.model))

    try:
        draws = draws_numbers(chain, gates.model, run)
    except ModelError as error:  # Blocks that are left out at random.
        return Obstacle(str(error), error.problems[0].help or "take another model")
    if draws:
        return Obstacle(f"stage {part.name!r} has dropout in training", f"set {part.key}.eval_mode=true")
    if sees_padding(partial(prefix_states, gates, span), probe_inputs(gates.model), pad_token_id):
        name = type(gates.model).__name__
        return Obstacle(f"{name} computes other hidden states for a text that is padded", "take another model")
    return None


def never_trained(part: Part) -> Obstacle | None:
    """What there is against a stage that is trained, if only later."""
    if part.config.frozen is True and part.config.unfreeze_at is None:
        return None
    when = "from the start" if part.config.unfreeze_at is None else f"from {part.config.unfreeze_at} of the training"
    return Obstacle(f"stage {part.name!r} is trained {when}", f"set {part.key}.frozen=true")


def draws_numbers(chain: Chain, model: PreTrainedModel, run: Callable[[], None]) -> bool:
    """Whether `run` draws random numbers in training. Raises ModelError for a model that drops blocks."""
    was_training = model.training
    model.train()
    chain.conduct().begin(0, 1)
    before = RandomState.now(model.device)
    try:
        with torch.no_grad():
            run()
        return not before.equals(RandomState.now(model.device))
    finally:
        before.restore()
        model.train(was_training)


def sees_padding(run: Callable[[dict[str, Tensor]], Tensor], inputs: dict[str, Tensor], pad_token_id: int) -> bool:
    """Whether the states (B, L, D) of a text depend on how far it is padded, or on what stands there."""
    length = inputs["input_ids"].shape[1]

    def states(num_padding: int, token: int) -> Tensor:
        padded = {
            name: nn.functional.pad(value, (0, num_padding), value=0 if "mask" in name else token)
            for name, value in inputs.items()
        }
        return run(padded)[:, :length].float()

    alone, padded, other = states(0, pad_token_id), states(_PADDING, pad_token_id), states(_PADDING, _OTHER_TOKEN)
    largest = float(alone.abs().max())
    return float((alone - padded).abs().max()) > _ROUNDING * largest or not torch.allclose(
        padded, other, rtol=0, atol=1e-6 * largest
    )


def prefix_states(gates: Gates, span: Span, inputs: dict[str, Tensor]) -> Tensor:
    """(B, L, D) states at the end of a prefix, in evaluation mode."""
    with torch.inference_mode(), evaluating(gates.model):
        payload = gates.run(span, None, inputs)
    states: Tensor = payload.encoder if payload.hidden is None else payload.hidden
    return states


def prefix_digest(gates: Gates, prefix: Prefix) -> str:
    """Digest of all that the states depend on beside the rows: weights, architecture, kind of attention.

    Not of the head: models with other heads, labels or tasks have the same.
    """
    model = gates.model
    body = f"{model.base_model_prefix}."
    digest = hashlib.sha256(type(model.base_model).__name__.encode())
    digest.update(json.dumps([prefix.blocks, model.config._attn_implementation, architecture(model)]).encode())
    for name, tensor in _tensors(gates, prefix.span):
        digest.update(f"{name.removeprefix(body)} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(gates: Gates, span: Span) -> Iterator[tuple[str, Tensor]]:
    """The parameters that the span computes with, and the buffers that are not another block's."""
    parameters = dict(gates.model.named_parameters(remove_duplicate=False))
    yield from ((name, parameters[name]) for name in sorted(live(gates, span)))
    later = {f"{gates.blocks.path_of(block)}." for block in range(span.stop, gates.blocks.num_blocks)}
    later -= {f"{gates.blocks.path_of(block)}." for block in span.blocks}
    yield from ((name, one) for name, one in gates.model.named_buffers() if not name.startswith(tuple(later)))


def architecture(model: PreTrainedModel) -> str:
    """Its config without rates of dropout and what is of the head, as text."""

    def kept(tree: Any) -> Any:
        if isinstance(tree, dict):
            names = [name for name in tree if name not in _NOT_OF_THE_BODY and "drop" not in str(name)]
            return {str(name): kept(tree[name]) for name in names}
        return tree

    return json.dumps(kept(model.config.to_dict()), sort_keys=True, default=str)

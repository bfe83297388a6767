"""The beginning of linked models that training cannot change: whole stages, whose outputs later ones read.

As `prefix` does for the blocks of one model; the same is tried here on the stages. Letters: B batch, L length, D widths
of the outputs that are read, side by side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from chainft.errors import ModelError
from chainft.stages.chain import Chain
from chainft.stages.gates import probe_inputs
from chainft.stages.links import LinkedModel
from chainft.stages.links_config import StageModelConfig
from chainft.stages.modes import evaluating
from chainft.stages.parts import Part
from chainft.stages.prefix import Obstacle, architecture, draws_numbers, never_trained, sees_padding


class LinkedPrefix:
    """Frozen leading stages of linked models."""

    def __init__(self, model: LinkedModel, stages: Sequence[str]) -> None:
        """`stages`: the leading ones, at least one, and not all that there are."""
        self.model = model
        self.stages = tuple(stages)
        later = [link for name, link in model.links.items() if name not in stages]
        self.read = tuple(name for name in stages if any(name in link.sources for link in later))
        """Those of them whose outputs later stages read."""
        self._widths = [model.links[name].width_out for name in self.read]

    @property
    def blocks(self) -> str:
        """What is kept, as a user writes it."""
        return ", ".join(self.stages)

    def states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B, L, D) outputs of the stages that are read, in evaluation mode."""
        with torch.inference_mode(), evaluating(self.model):
            hidden = self.hidden(inputs)
        return torch.cat([hidden[name] for name in self.read], dim=-1)

    def lent(self, states: Tensor) -> AbstractContextManager[None]:
        """Within the context, the model's forward pass begins after these stages, with their outputs (B, L, D)."""
        parts = torch.split(states, self._widths, dim=-1)
        return self.model.beginning_after(self.stages, dict(zip(self.read, parts, strict=True)))

    def digest(self) -> str:
        """Digest of all that the states depend on beside the rows: weights, architectures, kinds of attention, links."""
        about: list[Any] = [list(self.read)]
        for name in self.stages:
            stage: Any = self.model.stages[name]
            link = asdict(self.model.links[name]) | {"model": None, "auxiliary": None}
            about.append([name, link, architecture(stage), stage.config._attn_implementation])
        digest = hashlib.sha256(json.dumps(about, default=str).encode())
        for name, tensor in self._tensors():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def probe(self) -> dict[str, Any]:
        """A batch of one short text that the first stage takes."""
        first: Any = self.model.stages[self.stages[0]]
        return probe_inputs(first)

    def hidden(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        hidden: dict[str, Tensor] = {}
        for name in self.stages:
            _, hidden[name] = self.model.run_stage(name, inputs, hidden)
        return hidden

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        everything = [
            *self.model.named_parameters(remove_duplicate=False),
            *self.model.named_buffers(remove_duplicate=False),
        ]
        yield from ((name, one) for name, one in sorted(everything) if name.split(".")[1] in self.stages)


def find_linked_prefix(chain: Chain, model: LinkedModel, *, pad_token_id: int) -> LinkedPrefix | Obstacle:
    """The longest row of leading stages whose outputs are the same in every step."""
    found: LinkedPrefix | None = None
    for part in chain.parts[:-1]:
        stages = (*(found.stages if found else ()), part.name)
        obstacle = _obstacle(part, LinkedPrefix(model, stages), chain, pad_token_id)
        if obstacle is not None:
            return found or obstacle
        found = LinkedPrefix(model, stages)
    return found or Obstacle("there is one stage only", "leave cache.prefix away")


def _obstacle(part: Part, prefix: LinkedPrefix, chain: Chain, pad_token_id: int) -> Obstacle | None:
    """Why the stage cannot be the end of the prefix. That it shares no trained parameter, `check_overlaps` saw to."""
    if (trained := never_trained(part)) is not None:
        return trained
    model = prefix.model
    link = model.links[part.name]
    if isinstance(model.stages[part.name].config, StageModelConfig) or link.connector is not None:
        because = f"stage {part.name!r} is of a plug-in, whose code may change"
        return Obstacle(because, "leave cache.prefix away")
    if link.auxiliary is not None:
        return Obstacle(f"stage {part.name!r} has a head of its own", f"leave {part.key}.auxiliary away")
    inputs = prefix.probe()

    def run() -> None:
        prefix.hidden(inputs)

    def states(given: dict[str, Tensor]) -> Tensor:
        with torch.inference_mode(), evaluating(model):
            return prefix.hidden(given)[part.name]

    try:
        draws = draws_numbers(chain, model, run)
    except ModelError as error:  # Blocks that are left out at random.
        return Obstacle(str(error), error.problems[0].help or "take another model")
    if draws:
        return Obstacle(f"stage {part.name!r} has dropout in training", f"set {part.key}.eval_mode=true")
    if sees_padding(states, inputs, pad_token_id):
        name = type(model.stages[part.name]).__name__
        return Obstacle(f"{name} computes other hidden states for a text that is padded", "take another model")
    return None

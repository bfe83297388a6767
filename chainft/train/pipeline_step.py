"""One optimizer step of one rank of a pipeline: its actions in order, and what is open between them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from chainft.data.batching import Batch
from chainft.plan.pipeline_schedule import Action
from chainft.stages.gates import Payload
from chainft.stages.loss import loss_of
from chainft.stages.random_state import RandomState
from chainft.train.pipeline_links import Form, Message
from chainft.train.split_backward import SplitBackward

if TYPE_CHECKING:
    from chainft.train.pipeline import Pipeline


@dataclass
class _Open:
    """A micro-batch between its forward and its backward pass through a stage."""

    leaves: list[Tensor]
    """Of what was received, what needs a gradient."""
    roots: list[GradientEdge]
    """Of the outputs, what has a gradient; the tensors themselves need not live."""
    forms: list[Form]
    """Of the same."""

    @classmethod
    def of(cls, received: Payload | None, outputs: Sequence[Tensor]) -> _Open:
        leaves = [one for one in received.tensors() if one.requires_grad] if received else []
        outputs = [one for one in outputs if one.requires_grad]
        return cls(leaves, [get_gradient_edge(one) for one in outputs], [Form.of(one) for one in outputs])


class Step:
    """Forward and backward passes of all micro-batches."""

    def __init__(
        self, pipeline: Pipeline, batches: Sequence[Batch], num_targets: float, seed: Callable[[int], None]
    ) -> None:
        self._pipeline = pipeline
        self._batches = batches
        self._arguments = [pipeline.task.arguments(batch) for batch in batches]
        self._keys = [(True, form_of(arguments)) for arguments in self._arguments]
        self._num_targets = num_targets
        self._seed = seed
        self._last = pipeline.num_stages - 1
        self._open: dict[tuple[int, int], _Open] = {}
        self._rest: dict[tuple[int, int], Callable[[], None]] = {}
        """What weights still wait for."""
        self._total = torch.zeros((), dtype=torch.float64, device=pipeline.device)

    def run(self, actions: Sequence[Action]) -> Tensor:
        """Do them; returns the loss of the micro-batches whose loss this rank computes."""
        done = {"F": self._forward, "B": self._backward, "I": self._inputs, "W": self._weights}
        for action, following in zip(actions, [*actions[1:], None], strict=True):
            done[action.kind](action.stage, action.micro_batch, following)
        return self._total

    def _forward(self, stage: int, number: int, following: Action | None) -> None:
        pipeline, key = self._pipeline, self._keys[number]
        message = pipeline.links[stage - 1].receive(key) if stage else None
        received = message.payload if message else None
        random = message.random if message else None
        self._prepare(following)
        self._seed(number)
        if random is not None:
            RandomState.unpacked(random, pipeline.device).restore()
        before = RandomState.now(pipeline.device)
        with pipeline.autocast():
            output = pipeline.stages[stage](received, self._arguments[number])
        if stage < self._last:
            after = RandomState.now(pipeline.device)
            has_drawn = random is not None or not after.equals(before)
            pipeline.links[stage].send(Message.of(output, after.packed() if has_drawn else None), key)
            outputs = output.tensors()
        else:
            loss = loss_of(pipeline.task, output, self._batches[number]) / self._num_targets
            self._total += loss.detach()
            outputs = (loss,)
        self._open[stage, number] = _Open.of(received, outputs)

    def _backward(self, stage: int, number: int, following: Action | None) -> None:
        opened = self._open.pop((stage, number))
        self._whole(stage, opened, self._gradients(stage, opened, following))

    def _inputs(self, stage: int, number: int, following: Action | None) -> None:
        opened = self._open.pop((stage, number))
        gradients = self._gradients(stage, opened, following)
        if not opened.roots or not self._pipeline.splits(stage):
            self._whole(stage, opened, gradients)
        elif not opened.leaves:  # Nobody waits.
            self._rest[stage, number] = partial(self._whole, stage, opened, gradients)
        else:
            parts = SplitBackward(opened.roots, gradients)
            self._hand_back(stage, opened, parts.inputs(opened.leaves))
            self._rest[stage, number] = parts.weights

    def _weights(self, stage: int, number: int, following: Action | None) -> None:
        self._prepare(following)
        rest = self._rest.pop((stage, number), None)
        if rest is not None:
            rest()

    def _whole(self, stage: int, opened: _Open, gradients: Sequence[Tensor | None]) -> None:
        if opened.roots:
            torch.autograd.backward(opened.roots, gradients)
        self._hand_back(stage, opened, [leaf.grad for leaf in opened.leaves])

    def _gradients(self, stage: int, opened: _Open, following: Action | None) -> list[Tensor | None]:
        """Of the roots; None for the loss."""
        gradients: list[Tensor | None] = [None] * len(opened.roots)
        if stage < self._last and opened.roots:
            gradients = [*self._pipeline.links[stage].receive_gradients(opened.forms)]
        self._prepare(following)
        return gradients

    def _hand_back(self, stage: int, opened: _Open, gradients: Sequence[Tensor | None]) -> None:
        if opened.leaves:
            self._pipeline.links[stage - 1].send_gradients(
                [
                    torch.zeros_like(leaf) if gradient is None else gradient
                    for leaf, gradient in zip(opened.leaves, gradients, strict=True)
                ]
            )

    def _prepare(self, action: Action | None) -> None:
        """Let what the next action needs arrive while this one computes."""
        if action is None or action.kind == "W":
            return
        stage, number = action.stage, action.micro_batch
        if action.kind == "F" and stage:
            self._pipeline.links[stage - 1].prepare(self._keys[number])
        elif action.kind != "F" and stage < self._last and (stage, number) in self._open:
            self._pipeline.links[stage].prepare_gradients(self._open[stage, number].forms)


def form_of(arguments: Mapping[str, Any]) -> Hashable:
    """What the form of hidden states depends on: the shapes of tensors, and everything else."""
    return tuple(
        (name, tuple(value.shape) if isinstance(value, Tensor) else repr(value))
        for name, value in sorted(arguments.items())
    )

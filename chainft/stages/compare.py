"""Split against whole: the same batch through a model at once, and through its stages apart from each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from chainft.stages.gates import Gates, Payload, without_cache
from chainft.stages.random_state import RandomState
from chainft.stages.spans import Span
from chainft.stages.trunk import logits_of

Loss = Callable[[Any], Tensor]
"""From the model's output to the loss."""


@dataclass(frozen=True)
class Differences:
    """The largest differences between a model and its stages."""

    output: float
    """Of the logits, absolute."""
    loss: float
    """Absolute."""
    gradient: float
    """Of any parameter's gradient, relative to its largest entry."""
    shared_gradient: float
    """The same, of parameters that several stages compute with, whose gradients are summed in another order."""
    missing: tuple[str, ...]
    """Parameters that have a gradient on one side only."""


class Gradients:
    """The gradients of a model by parameter name, summed over backward passes."""

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}
        self.users: dict[str, int] = {}
        """In how many of the passes each parameter had one."""

    def add(self, model: PreTrainedModel, roots: list[Tensor], grads: list[Tensor | None]) -> None:
        """Those that one backward pass brings; the model keeps none."""
        model.zero_grad(set_to_none=True)
        if roots:
            torch.autograd.backward(roots, grads)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                self.total[name] = self.total[name] + parameter.grad if name in self.total else parameter.grad
                self.users[name] = self.users.get(name, 0) + 1
        model.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Pass:
    """A forward and a backward pass, of the whole model or of its stages one by one."""

    logits: Sequence[Tensor]
    """Of each head."""
    loss: Tensor
    gradients: Gradients


def compare(
    gates: Gates, spans: Sequence[Span], inputs: Mapping[str, Tensor], loss: Loss | None = None
) -> Differences:
    """Run `inputs` both ways in the model's current mode, with gradients cut at the borders as between processes.

    In training mode both begin with the same random numbers, so that dropout takes the same entries away. `loss` defaults to the loss that the model computes from `inputs["labels"]`. The model's gradients are dropped.
    """
    measure: Loss = loss or (lambda output: output.loss)
    model = gates.model
    random = RandomState.now(model.device)
    output = model(**inputs, **without_cache(model))
    value = measure(output)
    gradients = Gradients()
    gradients.add(model, [value], [None])
    whole = Pass(logits_of(output), value, gradients)
    random.restore()
    sent, received, output = _forward(gates, spans, inputs)
    value = measure(output)
    return differences(whole, Pass(logits_of(output), value, _backward(model, sent, received, value)))


def differences(whole: Pass, parts: Pass) -> Differences:
    """The largest differences between the whole model and its stages one by one."""
    expected, found = whole.gradients.total, parts.gradients.total
    shared = {name for name, count in parts.gradients.users.items() if count > 1}
    apart = {name: _relative(expected[name], found[name]) for name in expected.keys() & found.keys()}
    return Differences(
        max(map(_largest, whole.logits, parts.logits)),
        abs(float(whole.loss.detach()) - float(parts.loss.detach())),
        max((value for name, value in apart.items() if name not in shared), default=0.0),
        max((value for name, value in apart.items() if name in shared), default=0.0),
        tuple(sorted(expected.keys() ^ found.keys())),
    )


def _forward(
    gates: Gates, spans: Sequence[Span], inputs: Mapping[str, Tensor]
) -> tuple[list[Payload], list[Payload], Any]:
    """What each stage but the last sent, what its follower received, and the last one's output."""
    sent: list[Payload] = []
    received: list[Payload] = []
    payload = None
    for span in spans:
        output = gates.run(span, payload, inputs)
        if isinstance(output, Payload):
            sent.append(output)
            payload = output.apart()
            received.append(payload)
    return sent, received, output


def _backward(model: PreTrainedModel, sent: Sequence[Payload], received: Sequence[Payload], loss: Tensor) -> Gradients:
    """The summed gradients of all stages, from the last to the first."""
    gradients = Gradients()
    roots: list[Tensor] = [loss]
    grads: list[Tensor | None] = [None]
    for number in range(len(sent), -1, -1):
        gradients.add(model, roots, grads)
        if number:
            pairs = zip(sent[number - 1].tensors(), received[number - 1].tensors(), strict=True)
            linked = [(out, back.grad) for out, back in pairs if out.requires_grad and back.grad is not None]
            roots, grads = [out for out, _ in linked], [grad for _, grad in linked]
    return gradients


def _relative(expected: Tensor, found: Tensor) -> float:
    scale = float(expected.abs().max())
    difference = _largest(expected, found)
    return difference / scale if scale else difference


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one.detach().double() - other.detach().double()).abs().max())

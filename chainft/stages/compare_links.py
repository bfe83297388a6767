"""Linked models as one against their stages one by one, each with what it receives as another process would get it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from chainft.stages.compare import Differences, Gradients, Loss, Pass, differences
from chainft.stages.links import LinkedModel
from chainft.stages.random_state import RandomState
from chainft.stages.trunk import logits_of

Hidden = dict[str, Tensor]
"""Stage -> the last hidden states (batch, length, width) of its body."""


def compare_linked(model: LinkedModel, inputs: Mapping[str, Tensor], loss: Loss) -> Differences:
    """Run `inputs` both ways in the model's current mode; the model's gradients are dropped.

    `loss`: of one head. Auxiliary heads add theirs, each with its weight, where the model itself is in training mode.
    """
    random = RandomState.now(model.device)
    output = model(**inputs)
    value = loss(output)
    for weight, head in getattr(output, "auxiliary", None) or ():
        value = value + weight * loss(head)
    gradients = Gradients()
    gradients.add(model, [value], [None])
    whole = Pass(logits_of(output), value, gradients)
    random.restore()
    return differences(whole, _one_by_one(model, inputs, loss))


def _one_by_one(model: LinkedModel, inputs: Mapping[str, Tensor], loss: Loss) -> Pass:
    """All stages forward, then from the last to the first backward, with gradients handed back by hand."""
    sent: Hidden = {}
    received: dict[str, Hidden] = {}
    losses: dict[str, Tensor] = {}
    for name, link in model.links.items():
        received[name] = {source: sent[source].detach().requires_grad_() for source in link.sources}
        output, sent[name] = model.run_stage(name, inputs, received[name])
        if link.auxiliary is not None and model.training:
            losses[name] = link.auxiliary * loss(output)
    last = list(model.links)[-1]
    value = loss(output)
    gradients = _backward(model, {**losses, last: value}, sent, received)
    for auxiliary in losses.values():
        value = value + auxiliary
    return Pass(logits_of(output), value, gradients)


def _backward(
    model: LinkedModel, losses: Mapping[str, Tensor], sent: Hidden, received: Mapping[str, Hidden]
) -> Gradients:
    """Each stage's gradients from its own loss and from what the stages that read it hand back, summed over these."""
    gradients = Gradients()
    handed: Hidden = {}
    for name in reversed(model.links):
        roots: list[tuple[Tensor, Tensor | None]] = [(losses[name], None)] if name in losses else []
        roots += [(sent[name], handed[name])] if name in handed else []
        gradients.add(model, [root for root, _ in roots], [grad for _, grad in roots])
        for source, leaf in received[name].items():
            if leaf.grad is not None:
                handed[source] = handed[source] + leaf.grad if source in handed else leaf.grad
    return gradients

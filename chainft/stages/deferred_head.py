"""Language models whose logits are not computed by the model but by the loss, for the tokens that have a target.

Of a prompt no logits are wanted, and of an answer never all at once. In the place of the output layer stands what goes
into it, so the model's own forward pass hands on hidden states, and the loss gets them with the layer's weight. That
the logits are the output layer's, and that a task's loss takes them so, is tried, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chainft.data.batching import Batch
from chainft.models.fused_loss import DeferredLogits
from chainft.stages.gates import probe_inputs, without_cache
from chainft.stages.links import LinkedModel
from chainft.stages.modes import evaluating
from chainft.stages.trunk import JointModel
from chainft.tasks.base import Task

_TOLERANCE = 1e-4
_ADDED = "final_logits_bias"
"""Buffer (1, V) that BART and its kin add to the logits."""


class DeferredHead:
    """The output layer of a model, left to the loss."""

    def __init__(self, model: PreTrainedModel, layer: nn.Linear) -> None:
        self.model = model
        self.layer = layer
        self._added: Tensor | None = model._buffers.get(_ADDED)

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Within the context the layer gives what it is given."""
        layer: Any = self.layer
        layer.forward = _unchanged
        if self._added is not None:
            self.model._buffers[_ADDED] = self._added.new_zeros(1, 1)
        try:
            yield
        finally:
            del layer.forward
            if self._added is not None:
                self.model._buffers[_ADDED] = self._added

    def finish(self, output: Any) -> Any:
        """The output of a forward pass within `left_out`, with logits that the loss computes."""
        bias: Tensor | None = self.layer.bias
        if self._added is not None:
            bias = self._added[0] if bias is None else bias + self._added[0]
        hidden = output.logits
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        output.logits = DeferredLogits(hidden, self.layer.weight, bias, dtype)
        return output


def find_deferred_head(model: PreTrainedModel, task: Task, batch: Batch) -> DeferredHead | None:
    """None where logits are more than the output layer gives (capped, added to), or the loss wants them all.

    `batch`: a few rows with targets, on the CPU, on which the loss is tried with logits that are made up.
    """
    if isinstance(model, JointModel | LinkedModel):
        return None
    layer = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    is_capped = getattr(model.config.get_text_config(), "final_logit_softcapping", None) is not None
    if type(layer) is not nn.Linear or "forward" in vars(layer) or is_capped:
        return None
    if layer.weight.dtype == torch.float16:
        return None  # Its gradients are scaled before they are computed, those of the loss are not.
    head = DeferredHead(model, layer)
    return head if _model_allows(model, head) and _loss_allows(task, batch, layer.out_features) else None


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


def _model_allows(model: PreTrainedModel, head: DeferredHead) -> bool:
    inputs = {**probe_inputs(model), **without_cache(model)}
    with evaluating(model), torch.no_grad():
        expected = model(**inputs).logits
        try:
            with head.left_out():
                found = head.finish(model(**inputs)).logits.tensor()
        except RuntimeError:
            return False  # Something of the size of the logits is added to them.
    same: bool = expected.shape == found.shape and torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE)
    return same


def _loss_allows(task: Task, batch: Batch, num_words: int) -> bool:
    """Whether the loss is the same with deferred logits, made up for as many tokens as the labels have."""
    generator = torch.Generator().manual_seed(0)
    labels = batch.targets.get("labels")
    if labels is None or labels.dim() != 2:
        return False
    deferred = DeferredLogits(
        torch.randn(*labels.shape, 2, generator=generator), torch.randn(num_words, 2, generator=generator)
    )
    expected = task.loss(SimpleNamespace(logits=deferred.tensor()), batch)
    try:
        found = task.loss(SimpleNamespace(logits=deferred), batch)
    except (TypeError, AttributeError):
        return False  # The loss does something else with logits than to choose some of them.
    return torch.allclose(found, expected, rtol=_TOLERANCE)

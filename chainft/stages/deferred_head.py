"""Language models whose logits are not computed by the model but by the loss, for the tokens that have a target.

Of a prompt no logits are wanted, and of an answer never all at once. In the place of the output layer stands what goes
into it, so the model's own forward pass hands on hidden states, and the loss gets them with the layer's weight. That
the logits are the output layer's, and that a task's loss takes them so, is tried, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from chainft.data.batching import Batch
from chainft.models.device import is_out_of_memory
from chainft.models.fused_loss import DeferredLogits
from chainft.stages.gates import probe_inputs, without_cache
from chainft.stages.links import LinkedModel
from chainft.stages.modes import evaluating
from chainft.stages.rounding import alike
from chainft.stages.trunk import JointModel
from chainft.tasks.base import Task

_TOLERANCE = 1e-4
"""Of the loss."""
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Settings of models that cap their logits, which a model without weights does not show."""
_WORDS = 97
"""Words of the made-up logits on which the loss is tried."""
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
        own = vars(self.layer)
        before = own.get("forward")
        own["forward"] = _unchanged
        if self._added is not None:
            self.model._buffers[_ADDED] = self._added.new_zeros(1, 1)
        try:
            yield
        finally:
            del own["forward"]
            if before is not None:
                own["forward"] = before
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
    config = model.config.get_text_config()
    is_capped = any(getattr(config, name, None) is not None for name in _CAPS)
    if type(layer) is not nn.Linear or "forward" in vars(layer) or is_capped:
        return None
    if layer.weight.dtype == torch.float16:
        return None  # Its gradients are scaled before they are computed, those of the loss are not.
    head = DeferredHead(model, layer)
    return head if _model_allows(model, head) and _loss_allows(task, batch) else None


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


def _model_allows(model: PreTrainedModel, head: DeferredHead) -> bool:
    inputs = {**probe_inputs(model), **without_cache(model)}
    with evaluating(model), torch.no_grad():
        expected = model(**inputs).logits
        try:
            with head.left_out():
                found = head.finish(model(**inputs)).logits.tensor()
        except (RuntimeError, IndexError) as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            return False  # Something of the size of the logits is added to them, or some of them are changed.
    return expected.shape == found.shape and alike(found, expected)


def _loss_allows(task: Task, batch: Batch) -> bool:
    """Whether the loss is the same with deferred logits, made up for as many tokens as the labels have and few words."""
    labels = batch.targets.get("labels")
    if labels is None or labels.dim() != 2:
        return False
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*size, 2, generator=generator) for size in (labels.shape, (_WORDS,)))
    deferred = DeferredLogits(hidden, weight)
    small = replace(batch, targets={**batch.targets, "labels": torch.where(labels < 0, labels, labels % _WORDS)})
    try:
        expected = task.loss(CausalLMOutput(logits=deferred.tensor()), small)
        found = task.loss(CausalLMOutput(logits=deferred), small)  # type: ignore[arg-type]
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError):
        return False  # The loss does something else than to choose some of the logits.
    return torch.allclose(found, expected, rtol=_TOLERANCE)

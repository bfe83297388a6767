"""The head of a model run for those tokens alone whose answers are read, where it treats tokens one by one.

That it does in evaluation is tried, not assumed: a head that pools, that looks at neighbours, or that gives more than one
score a token and class is called as ever. Letters: B rows, L tokens of the longest, R tokens that are read, T of all, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from chainft.models.device import is_out_of_memory
from chainft.stages.modes import evaluating
from chainft.stages.packed_attention import attending, configs_of
from chainft.stages.packed_layout import Layout
from chainft.stages.rounding import alike

_EVERY = 3
_BESIDE = {"attention_mask", "use_cache"}
"""Inputs that say nothing of a token."""

Head = Callable[[Tensor, Mapping[str, Any]], Any]
"""From last hidden states (B, L, D) and the model's inputs (B, L) to its output."""


class TokenHead:
    """Gives what the head gives, with zeros for tokens that are not read."""

    def __init__(self, model: PreTrainedModel, head: Head, first_position: int) -> None:
        """`first_position`: the number of the first position of a text."""
        self._model = model
        self._configs = configs_of(model)
        self._head = head
        self._first = first_position
        self._inputs: frozenset[str] = frozenset()

    @property
    def is_by_tokens(self) -> bool:
        """Whether the head treats tokens one by one, as far as `find_out` has found."""
        return bool(self._inputs)

    def takes(self, inputs: Mapping[str, Any]) -> bool:
        """Whether a batch with these inputs can run so: no others than were tried."""
        return self.is_by_tokens and inputs.keys() <= self._inputs | _BESIDE

    def __call__(self, hidden: Tensor, inputs: Mapping[str, Any], layout: Layout) -> Any:
        """The model's output, its logits (B, L, C), for last hidden states (1, R, D), or (1, T, D) of all tokens."""
        output = self._of_read(hidden, inputs, layout)
        output.logits = layout.unpack(output.logits)
        return output

    def find_out(self, inputs: Mapping[str, Tensor], lengths: np.ndarray) -> None:
        """Try the head in evaluation mode, on made-up hidden states, with the inputs of a padded batch.

        To be called before Accelerate has the model, which makes it compute in 16 bits, where other sizes round otherwise.
        """
        inside = np.arange(lengths.max())[None] < lengths[:, None]
        read = inside & (np.arange(inside.size) % _EVERY != 0).reshape(inside.shape)
        layout = Layout(lengths, self._model.device, read)
        width = self._model.config.get_text_config().hidden_size
        drawn = torch.randn(1, int(read.sum()), width, generator=torch.Generator().manual_seed(0))
        hidden = drawn.to(self._model.device, self._model.dtype)
        with evaluating(self._model), torch.no_grad():
            try:
                expected = self._head(layout.unpack(hidden), inputs)
                if not _has_logits_alone(expected) or expected.logits.shape[:2] != inside.shape:
                    return
                found = self._of_read(hidden, inputs, layout)
            except (TypeError, ValueError, LookupError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and is_out_of_memory(error):
                    raise
                return  # It needs rows, or more than these inputs.
        if not _has_logits_alone(found) or found.logits.shape[:2] != hidden.shape[:2]:
            return
        wanted = expected.logits.flatten(0, 1)[layout.flat[layout.read_places]]
        if alike(found.logits[0], wanted):
            self._inputs = frozenset(inputs)

    def _of_read(self, hidden: Tensor, inputs: Mapping[str, Any], layout: Layout) -> Any:
        """The same with logits (1, R, C)."""
        places, positions = layout.flat, layout.positions
        if hidden.shape[1] < len(places):
            places, positions = places[layout.read_places], positions[:, layout.read_places]
        names = [name for name in ("input_ids", "token_type_ids") if name in inputs]
        few = {name: inputs[name].flatten()[places][None] for name in names}
        positions = positions + self._first
        # As one row, without a mask, which a decoder would make (R, R) of.
        with attending(self._configs, Layout(np.array([hidden.shape[1]]), layout.device)):
            return self._head(hidden, {**few, "position_ids": positions})


def _has_logits_alone(output: Any) -> bool:
    is_plain = isinstance(output, ModelOutput) and list(output.keys()) == ["logits"]
    return is_plain and isinstance(output.logits, Tensor) and output.logits.dim() == 3

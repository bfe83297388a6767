"""The head of a model run for those tokens alone whose answers are read, where it treats tokens one by one.

That it does is tried, not assumed: a head that pools, that looks at neighbours, or that gives more than one score a token
and class is called as ever. Letters: B rows, L tokens of the longest, R tokens that are read, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from chainft.stages.modes import evaluating
from chainft.stages.packed_layout import Layout
from chainft.stages.rounding import alike

_LENGTHS = (7, 4, 5)
_EVERY = 3
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
"""What a head may be given beside hidden states: with anything else, a batch goes through it as it is."""

Head = Callable[[Tensor, Mapping[str, Any]], Any]
"""From last hidden states (B, L, D) and the model's inputs (B, L) to its output."""


class TokenHead:
    """Gives what the head gives, with zeros for tokens that are not read."""

    def __init__(self, model: PreTrainedModel, head: Head, first_position: int) -> None:
        """`first_position`: the number of the first position of a text."""
        self._model = model
        self._head = head
        self._first = first_position

    def takes(self, inputs: Mapping[str, Any], layout: Layout) -> bool:
        """Whether a batch with these inputs can run so."""
        return layout.read is not None and inputs.keys() <= _INPUTS | {"use_cache"} and self._is_by_tokens

    def __call__(self, hidden: Tensor, inputs: Mapping[str, Any], layout: Layout) -> Any:
        """The model's output, its logits (B, L, C), for last hidden states (1, R, D)."""
        output = self._of_read(hidden, inputs, layout)
        output.logits = layout.unpack(output.logits)
        return output

    def _of_read(self, hidden: Tensor, inputs: Mapping[str, Any], layout: Layout) -> Any:
        """The same with logits (1, R, C)."""
        places = layout.flat[layout.read_places]
        names = [name for name in ("input_ids", "token_type_ids") if name in inputs]
        few = {name: inputs[name].flatten()[places][None] for name in names}
        return self._head(hidden, {**few, "position_ids": layout.positions[:, layout.read_places] + self._first})

    @cached_property
    def _is_by_tokens(self) -> bool:
        lengths = np.array(_LENGTHS)
        inside = np.arange(lengths.max())[None] < lengths[:, None]
        read = inside & (np.arange(inside.size) % _EVERY != 0).reshape(inside.shape)
        device, width = self._model.device, self._model.config.get_text_config().hidden_size
        layout = Layout(lengths, device, read)
        ids = torch.full(inside.shape, 5, device=device)
        inputs = {"input_ids": ids, "attention_mask": torch.from_numpy(inside.astype(np.int64)).to(device)}
        drawn = torch.randn(1, int(read.sum()), width, generator=torch.Generator().manual_seed(0))
        hidden = drawn.to(device, self._model.dtype)
        # In 16 bits other sizes round otherwise.
        with evaluating(self._model), torch.no_grad(), torch.autocast(device.type, enabled=False):
            expected = self._head(layout.unpack(hidden), inputs)
            if not _has_logits_alone(expected) or expected.logits.shape[:2] != inside.shape:
                return False
            try:
                found = self._of_read(hidden, inputs, layout)
            except (TypeError, ValueError, IndexError, RuntimeError):
                return False  # It needs rows.
        if not _has_logits_alone(found) or found.logits.shape[:2] != hidden.shape[:2]:
            return False
        wanted = expected.logits.flatten(0, 1)[layout.flat[layout.read_places]]
        return alike(found.logits[0], wanted)


def _has_logits_alone(output: Any) -> bool:
    is_plain = isinstance(output, ModelOutput) and list(output.keys()) == ["logits"]
    return is_plain and isinstance(output.logits, Tensor) and output.logits.dim() == 3

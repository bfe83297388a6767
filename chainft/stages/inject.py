"""Runs one whole model from a hidden state that another one gave: the place where linked models meet.

The model's own forward pass runs unmodified (embeddings, masks, positions, head). Only for the time of a call, block 0
is a gate that puts in what is received. It is no forward hook, since a block whose activations are recomputed would
run its hooks again in the backward pass, when the call is over. Letters: B batch, L length, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from chainft.stages.blocks import find_blocks
from chainft.stages.families import check_family
from chainft.stages.gates import check_layerdrop, probe_inputs, without_cache


class Entrance:
    """A model that can be entered at block 0. It stays as it is: names, state, and what it computes by itself."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Raises ModelError for a model without blocks that can be told apart, or of a family that is refused."""
        check_family(model)
        self.model = model
        self._path = find_blocks(model).stacks[0].path

    def run(self, inputs: Mapping[str, Tensor], received: Tensor | None, *, residual: bool) -> tuple[Any, Tensor]:
        """The model's output, and the last hidden states (B, L, D) of its body.

        `received` (B, L, width of block 0) is added to the model's own embeddings with `residual`, else it replaces
        them; None: the model runs as it is. Raises ModelError for a model in training that drops blocks at random.
        """
        check_layerdrop(self.model)
        with self._gate(received, residual), self._listening() as heard:
            output = self.model(**inputs, **without_cache(self.model))
        return output, heard[-1]

    def widths(self) -> tuple[int, int]:
        """Width of what block 0 receives and of what the body gives out, found by running it on a few tokens."""
        seen: list[Tensor] = []
        blocks = self.model.get_submodule(self._path)
        assert isinstance(blocks, nn.ModuleList)
        handle = blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        was_training = self.model.training
        self.model.train(False)
        try:
            with torch.no_grad():
                _, hidden = self.run(probe_inputs(self.model), None, residual=False)
        finally:
            self.model.train(was_training)
            handle.remove()
        return seen[0].shape[-1], hidden.shape[-1]

    @contextmanager
    def _gate(self, received: Tensor | None, residual: bool) -> Iterator[None]:
        if received is None:
            yield
            return
        blocks = self.model.get_submodule(self._path)
        block = blocks._modules["0"]
        assert block is not None
        blocks._modules["0"] = _Gate(block, received, residual)
        try:
            yield
        finally:
            blocks._modules["0"] = block

    @contextmanager
    def _listening(self) -> Iterator[list[Tensor]]:
        """The outputs of the body while it is called."""
        heard: list[Tensor] = []
        body: nn.Module = self.model.base_model
        handle = body.register_forward_hook(lambda _, __, output: heard.append(output[0]))
        try:
            yield heard
        finally:
            handle.remove()


class _Gate(nn.Module):
    """Stands for block 0; attributes that the model reads are the block's."""

    def __init__(self, block: nn.Module, received: Tensor, residual: bool) -> None:
        super().__init__()
        self.__dict__.update(block=block, received=received, residual=residual)  # Not registered: names stay.

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Put in what is received, at the first call only: ALBERT goes through its block several times."""
        received, self.__dict__["received"] = self.__dict__["received"], None
        if received is not None and args:
            args = (self._entered(args[0], received), *args[1:])
        elif received is not None:
            kwargs["hidden_states"] = self._entered(kwargs["hidden_states"], received)
        return self.__dict__["block"](*args, **kwargs)

    def _entered(self, own: Tensor, received: Tensor) -> Tensor:
        """(B, L, D); models with windows of attention (Longformer) pad L, on the right."""
        missing = own.shape[1] - received.shape[1]
        fitting = functional.pad(received, (0, 0, 0, missing)).to(own.dtype) if missing else received.to(own.dtype)
        return own + fitting if self.__dict__["residual"] else fitting

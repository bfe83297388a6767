"""Blocks of a model compiled one by one by torch.compile, for the forward and backward passes of training.

Blocks of a kind share what is compiled, so a model of twelve costs little more than one of one, and sizes are symbols:
batches of other lengths compile nothing anew. Outside of `Compiled.active` every block runs as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel

from chainft.stages.blocks import find_blocks
from chainft.stages.flash_rows import BOUNDS


class Compiled:
    """The blocks of a model, compiled when they first run within `active`."""

    _running: Compiled | None = None
    """Of the process."""

    def __init__(self, model: PreTrainedModel, *, longest: int) -> None:
        """`longest`: tokens of the longest row that is trained on. Raises ModelError for a model without blocks that can be told apart."""
        for stack in find_blocks(model).stacks:
            for block in model.get_submodule(stack.path).children():
                block.compile(dynamic=True)
        BOUNDS.least = longest
        torch.compiler.set_stance("force_eager")  # Of the whole process, in which nothing else is compiled.

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the context blocks run compiled."""
        Compiled._running = self
        try:
            with torch.compiler.set_stance("default"):
                yield
        finally:
            Compiled._running = None

    @staticmethod
    def runs() -> bool:
        """Whether blocks run compiled now."""
        return Compiled._running is not None

    @staticmethod
    def left_out() -> AbstractContextManager[Any]:
        """Within the context they run as they are."""
        if Compiled._running is None:  # The compiler takes seconds to import.
            return nullcontext()
        stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance

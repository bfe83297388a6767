"""Blocks of a model compiled one by one by torch.compile, for the forward and backward passes of training.

Blocks of a kind share what is compiled, so a model of twelve costs little more than one of one, and sizes are symbols:
batches of other lengths compile nothing anew. Outside of `Compiled.active` every block runs as it is.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from chainft.stages.blocks import find_blocks
from chainft.stages.flash_rows import BOUNDS


class Compiled:
    """The blocks of a model, compiled when they first run within `active`."""

    def __init__(self, model: PreTrainedModel, *, longest: int) -> None:
        """`longest`: tokens of the longest row that is trained on.

        Raises ModelError for a model without blocks that can be told apart.
        """
        self.is_running = False
        self._longest = longest
        self._calls: list[tuple[nn.Module, Callable[..., Any] | None]] = []
        for stack in find_blocks(model).stacks:
            for block in model.get_submodule(stack.path).children():
                block.compile(dynamic=True)
                self._calls.append((block, block._compiled_call_impl))
        self._let_be()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within the context blocks run compiled."""
        for block, call in self._calls:
            block._compiled_call_impl = call  # Where `nn.Module.compile` puts it.
        self.is_running, BOUNDS.least = True, self._longest
        try:
            yield
        finally:
            self._let_be()

    def left_out(self) -> AbstractContextManager[Any]:
        """Within the context blocks run as they are, also within `active`."""
        stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance

    def _let_be(self) -> None:
        for block, _ in self._calls:
            block._compiled_call_impl = None
        self.is_running, BOUNDS.least = False, 0


def what_is_missing(device: torch.device) -> str | None:
    """What torch.compile needs on this machine and does not find; None: nothing."""
    if device.type == "cuda":  # triton compiles what starts its kernels.
        language, key, names = "C", "CC", ["gcc", "clang"]
    else:
        language, key, names = "C++", "CXX", ["clang++" if sys.platform == "darwin" else "g++"]
    names = [os.environ[key]] if key in os.environ else names
    if not any(map(shutil.which, names)):
        return f"there is no compiler for {language} ({', '.join(names)})"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return None

"""A model in evaluation mode for a while, and every module afterwards in the mode in which it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Of a model in training some stages may be in evaluation mode (`eval_mode`), and stay in it."""
    before = [(module, module.training) for module in model.modules()]
    model.train(False)
    try:
        yield
    finally:
        for module, training in before:
            module.training = training

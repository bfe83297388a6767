"""A model in another mode for a while, and every module afterwards in the mode in which it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Of a model in training some stages may be in evaluation mode (`eval_mode`), and stay in it."""
    return _in_mode(model, training=False)


def training(model: nn.Module) -> AbstractContextManager[None]:
    """All of it, with dropout."""
    return _in_mode(model, training=True)


@contextmanager
def _in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was

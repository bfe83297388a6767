"""A model in another mode for a while, and every module afterwards in the mode in which it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Of a model in training some stages may be in evaluation mode (`eval_mode`), and stay in it."""
    return _in_mode(model, training=False)


def training(model: nn.Module) -> AbstractContextManager[None]:
    """All of it, with dropout."""
    return _in_mode(model, training=True)


class KeptModes:
    """The modes in which the modules of a model train, restored where something changed them: looking is quicker than setting."""

    def __init__(self, model: nn.Module, settle: Callable[[], None]) -> None:
        """`settle` follows `model.train()`, and leaves the modules in the same modes each time."""
        self._model = model
        self._settle = settle
        self._kept: list[tuple[nn.Module, bool]] = []

    def restore(self) -> None:
        if self._kept and all(module.training is mode for module, mode in self._kept):
            return
        self._model.train()
        self._settle()
        self._kept = [(module, module.training) for module in self._model.modules()]


@contextmanager
def _in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        # By calls, outer modules first: in its own `train` a module may do more than set its mode (merge weights, ...).
        model.train(before[0][1])
        for module, was in before:
            if module.training is not was:
                module.train(was)
        for module, was in before:
            module.training = was  # Of one that stands under two parents in different modes.

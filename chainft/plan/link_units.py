"""Which stage of linked models computes, in both passes: the units of their trace are the stages, from 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from chainft.plan.trace import Tracker
from chainft.stages.links import LinkedModel

Hidden = WeakValueDictionary[str, Tensor]
"""Stage -> the last hidden states of its body, as long as the forward pass itself keeps them."""


@contextmanager
def link_units(tracker: Tracker, model: LinkedModel) -> Iterator[None]:
    """Tell the tracker of each stage; connectors and mixes belong to the stage that receives."""
    hidden: Hidden = WeakValueDictionary()
    handles = []
    for number, name in enumerate(model.links):
        entry = _Entry(tracker, number, hidden, model.links[name].sources)
        for module in _modules(name, model):
            handles.append(module.register_forward_pre_hook(entry.enter, with_kwargs=True))
        stage = model.stages[name]
        assert isinstance(stage, PreTrainedModel)
        handles.append(stage.register_forward_hook(entry.leave))
        handles.append(stage.base_model.register_forward_hook(_keeping(hidden, name)))
        handles.append(stage.base_model.register_forward_hook(entry.leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _modules(name: str, model: LinkedModel) -> Iterator[nn.Module]:
    """What computes for a stage."""
    if name in model.connectors:
        yield from model.connectors[name].children()
    if name in model.mixes:
        yield model.mixes[name]
    yield model.stages[name]


def _keeping(hidden: Hidden, name: str) -> Any:
    def hook(_: nn.Module, __: Any, output: Any) -> None:
        hidden[name] = output[0]

    return hook


class _Entry:
    """The hooks of one stage."""

    def __init__(self, tracker: Tracker, unit: int, hidden: Hidden, sources: Sequence[str]) -> None:
        self.tracker = tracker
        self.unit = unit
        self.hidden = hidden
        self.sources = sources

    def enter(self, module: Any, args: Any, kwargs: Any) -> None:
        self.tracker.unit = self.unit
        received = [self.hidden[source] for source in self.sources]
        # Nothing before is trained: what comes from there is kept for this stage.
        self.tracker.move(one for one in received if not one.requires_grad)

    def leave(self, module: Any, args: Any, output: Any) -> None:
        """In the backward pass the stage computes from the moment when the gradient of one of its outputs is there."""
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                leaf.register_hook(self._switch)  # type: ignore[no-untyped-call]

    def _switch(self, _: Tensor) -> None:
        self.tracker.unit = self.unit

"""Lets a model that is run stage by stage be called as a whole, so that it writes texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

from chainft.models.generation import without_keys


@contextmanager
def called_by_stages(model: PreTrainedModel, run: Callable[..., Any]) -> Iterator[None]:
    """Within the context a call of the model is one of `run`, which may call the model's own forward pass.

    Keys and values of earlier tokens are computed again for each new one: a cache knows all blocks of a model.
    """
    own, is_wrapped = model.forward, "forward" in vars(model)
    inside = False

    def forward(**arguments: Any) -> Any:
        nonlocal inside
        if inside:  # A stage runs the model's own forward pass.
            return own(**arguments)
        inside = True
        try:
            return run(**arguments)
        finally:
            inside = False

    model.forward = forward
    try:
        with without_keys(model):
            yield
    finally:
        del model.forward
        if is_wrapped:  # By Accelerate, for mixed precision.
            model.forward = own

"""Memory that a batch of an evaluation lacks."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from chainft.errors import MemoryError_
from chainft.infer.engine import Engine

UNUSED: Any = None


def full(*_: object) -> Any:
    raise torch.OutOfMemoryError("full")


def test_a_batch_of_a_divided_model_is_not_tried_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other processes, which compute parts of it, would take the next batch for its half."""
    engine = Engine(UNUSED, UNUSED, 8, nullcontext, retries=False)
    monkeypatch.setattr(engine, "_forward", full)
    with pytest.raises(MemoryError_) as caught:
        engine._run_batch([{}, {}], np.array([0, 1]), None)
    assert "evaluation.batch_size below 8" in caught.value.render()

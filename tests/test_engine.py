"""Memory that a batch of an evaluation lacks."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from chainft.errors import MemoryError_
from chainft.infer.engine import Engine
from chainft.tasks._text_to_text import TextToText

UNUSED: Any = None
UNTOUCHED: Any = object()


def test_only_a_task_that_scores_as_ours_do_gets_deferred_logits() -> None:
    """Another may do with them what it likes."""

    class Ours(TextToText):
        pass

    class Other(TextToText):
        def infer(self, model: Any, batch: Any) -> Any:
            return model

    def called(kind: Any) -> Any:
        return Engine(UNUSED, object.__new__(kind), 8, nullcontext, deferred=UNTOUCHED)._caller()

    assert called(Other) is UNUSED
    assert called(Ours) is not UNUSED


def full(*_: object) -> Any:
    raise torch.OutOfMemoryError("full")


def test_a_batch_of_a_divided_model_is_not_tried_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other processes, which compute parts of it, would take the next batch for its half."""
    engine = Engine(UNUSED, UNUSED, 8, nullcontext, retries=False)
    monkeypatch.setattr(engine, "_forward", full)
    with pytest.raises(MemoryError_) as caught:
        engine._run_batch([{}, {}], np.array([0, 1]), None)
    assert "evaluation.batch_size below 8" in caught.value.render()

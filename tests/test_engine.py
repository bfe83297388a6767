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


def test_progress_is_told_before_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock begins then: the first stretch may be all there is."""
    engine = Engine(UNUSED, UNUSED, 8, nullcontext, stretch=2)
    told: list[Any] = []
    monkeypatch.setattr(engine, "_stretch", lambda examples, *_, **__: iter(told.append("run") or examples))
    examples: Any = [1, 2, 3]
    store: Any = type("Store", (list,), {"first_of": np.arange(4)})([{}, {}, {}])
    found = list(engine.predict_store(examples, store, progress=lambda *counts: told.append(counts)))
    assert found == examples and told == [(0, 3), "run", (2, 3), "run", (3, 3)]


def full(*_: object) -> Any:
    raise torch.OutOfMemoryError("full")


def test_a_batch_of_a_divided_model_is_not_tried_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other processes, which compute parts of it, would take the next batch for its half."""
    engine = Engine(UNUSED, UNUSED, 8, nullcontext, retries=False)
    monkeypatch.setattr(engine, "_forward", full)
    with pytest.raises(MemoryError_) as caught:
        engine._run_batch([{}, {}], np.array([0, 1]), None)
    assert "evaluation.batch_size below 8" in caught.value.render()

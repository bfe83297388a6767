"""Validation while training: what the evaluation of the best weights found is kept, so that it is not made again.

Each evaluation leaves its predictions and scores as files beside the others in `predictions/`; only those of the
best step so far and of the current one stay. They are written before the checkpoint of that step, so a run that goes
on finds them too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainft.data.example import Example
from chainft.infer.engine import Engine
from chainft.run_folder import RunFolder, write_json
from chainft.tasks.base import Prediction, Scores
from chainft.train.finish import score_and_write, scores_to_json
from chainft.train.prepare import Prepared
from chainft.train.shared_checkpoints import SharedCheckpoints


@dataclass(frozen=True)
class Kept:
    """What one evaluation left behind."""

    predictions: Path
    scores: dict[str, Any]
    """As `all_results.json` holds them."""


def read_pairs(path: Path, prepared: Prepared) -> Iterator[tuple[Example, Prediction]]:
    """The validation examples with the predictions that `path` holds for them."""
    examples = prepared.splits.examples["validation"]
    with path.open(encoding="utf-8") as stream:
        for example, line in zip(examples, stream, strict=True):
            yield example, json.loads(line)["prediction"]


class Evaluations:
    """Scores the validation examples with the current weights; call it with the step."""

    def __init__(
        self, prepared: Prepared, folder: RunFolder, checkpoints: SharedCheckpoints, engine: Callable[[], Engine]
    ) -> None:
        self._prepared = prepared
        self._folder = folder
        self._checkpoints = checkpoints
        self._engine = engine

    def __call__(self, step: int) -> Scores:
        best = self._checkpoints.best()
        engine = self._engine()
        if not engine.world.is_main:
            return score_and_write(engine, self._prepared, "validation", path=None)
        self._remove(but={step, *([best.step] if best else [])})
        scores = score_and_write(engine, self._prepared, "validation", path=self._predictions(step))
        write_json(self._scores(step), {"data": self._prepared.splits.fingerprint, "scores": scores_to_json(scores)})
        return scores

    def of(self, step: int) -> Kept | None:
        """What the evaluation of `step` found; None where there was none, or it was of other data than now."""
        if not (self._scores(step).is_file() and self._predictions(step).is_file()):
            return None
        found = json.loads(self._scores(step).read_text(encoding="utf-8"))
        if found["data"] != self._prepared.splits.fingerprint:
            return None
        return Kept(self._predictions(step), found["scores"])

    def clear(self) -> None:
        """Remove what all evaluations left."""
        self._remove(but=set())

    def _predictions(self, step: int) -> Path:
        return self._folder.predictions / f"validation-{step:06d}.jsonl"

    def _scores(self, step: int) -> Path:
        return self._folder.predictions / f"validation-{step:06d}.json"

    def _remove(self, *, but: set[int]) -> None:
        kept = {path for step in but for path in (self._predictions(step), self._scores(step))}
        for path in self._folder.predictions.glob("validation-*.json*"):
            if path not in kept:
                path.unlink(missing_ok=True)

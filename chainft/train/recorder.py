"""Writes down what training does: `metrics.jsonl`, the tracker, the progress display. Changes no number."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from chainft.errors import StorageError
from chainft.run_folder import write_text
from chainft.tasks.base import Scores
from chainft.train.leading import StepFacts


class Display(Protocol):
    """What the recorder needs of `chainft.report.progress.TrainProgress`."""

    def step(self, record: Mapping[str, Any]) -> None: ...

    def evaluation(self, record: Mapping[str, Any]) -> None: ...


class Recorder:
    """Appends a line for each step and evaluation; non-finite numbers become null, since JSON has none."""

    def __init__(
        self,
        path: Path | None,
        *,
        accelerator: Accelerator,
        display: Display,
        from_step: int = -1,
        evaluated_step: int = -1,
        train_time_s: float = 0.0,
    ) -> None:
        """A run that goes on says from which step, up to which one its evaluations are done, and its time so far.

        Without a path nothing is written: of several processes the main one does it.
        """
        self.accelerator = accelerator
        self.display = display
        self.path = path
        self._seconds = train_time_s
        if path is not None:
            _drop_after(path, {"train": from_step, "evaluation": evaluated_step})

    def step(self, facts: StepFacts, epoch: float, train_time_s: float) -> None:
        """Record an update; `train_time_s` is the time of all updates so far."""
        seconds, self._seconds = train_time_s - self._seconds, train_time_s
        record = {
            "kind": "train",
            "step": facts.step,
            "epoch": round(epoch, 6),
            "loss": _finite(facts.loss),
            "lr": facts.lr,
            "grad_norm": _finite(facts.grad_norm),
            "examples_per_s": facts.num_examples / seconds if seconds > 0 else None,
            "tokens_per_s": facts.num_tokens / seconds if seconds > 0 else None,
            "memory_bytes": memory_bytes(self.accelerator.device),
            "time_s": train_time_s,
        }
        self._append(record)
        self.display.step(record)
        self._track({key: record[key] for key in ("loss", "lr", "grad_norm", "epoch")}, "train", facts.step)

    def evaluation(self, split: str, step: int, epoch: float, scores: Scores) -> None:
        """Record the scores of a split after `step` updates."""
        values = {name: _finite(value) for name, value in scores.values.items()}
        record = {
            "kind": "evaluation",
            "split": split,
            "step": step,
            "epoch": round(epoch, 6),
            "values": values,
            "time": time.time(),
        }
        self._append(record)
        self.display.evaluation(record)
        self._track(values, split, step)

    def _append(self, record: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record, allow_nan=False) + "\n")
        except OSError as error:
            raise StorageError(
                f"cannot write {str(self.path)!r}: {error.strerror}",
                slug="write-failed",
                help="free disk space, then go on with resume=true",
            ) from error

    def _track(self, values: Mapping[str, Any], prefix: str, step: int) -> None:
        if self.accelerator.trackers:
            known = {f"{prefix}/{name}": value for name, value in values.items() if value is not None}
            self.accelerator.log(known, step=step)


def memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: on the GPU if it computes there, else the resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _drop_after(path: Path, last: Mapping[str, int]) -> None:
    """Remove the lines after the last step of their kind, which a resumed run does again, and one cut by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record["step"] <= last[record["kind"]]:
            kept.append(line + "\n")
    write_text(path, "".join(kept))

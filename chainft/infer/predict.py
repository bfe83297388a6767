"""Predictions for texts that a user brings: lines, JSON lines or words, answered in input order as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import torch

from chainft.data.example import Example
from chainft.errors import DataError
from chainft.infer.engine import BATCHES_A_STRETCH, Engine
from chainft.infer.forward import LEAST_ROWS, answering
from chainft.infer.precision import Precision, set_precision
from chainft.infer.trained import Trained, load_run
from chainft.models.device import choose_device
from chainft.tasks.base import Prediction, Task

Format = Literal["lines", "jsonl"]


def predict(
    run: Path,
    lines: Iterable[str],
    *,
    form: Format,
    source: str,
    batch_size: int = 64,
    interactive: bool = False,
    precision: Precision = "full",
) -> Iterator[dict[str, Any]]:
    """Yield one JSON object for each line, in order.

    `form` says whether a line is a text or a JSON object; `source` names the input in errors. `interactive`
    answers each line at once instead of collecting lines of like length. Raises DataError for a line that
    cannot be read.
    """
    trained = load_run(run)
    stretch = 1 if interactive else batch_size * BATCHES_A_STRETCH
    engine = make_engine(trained, batch_size=batch_size, stretch=stretch, precision=precision)
    examples = read_examples(trained.task, lines, form=form, source=source)
    yield from predictions(engine, examples, probes=0 if interactive else max(batch_size, LEAST_ROWS))


def predictions(engine: Engine, examples: Iterator[Example], *, probes: int) -> Iterator[Prediction]:
    """The prediction of each example, in order. The first `probes` tell how the model is best run."""
    first = list(islice(examples, probes if engine.task.evaluates_by_forward else 0))
    rows = [window for example in first for window in engine.task.encode(example)]
    engine.forward = answering(engine.model, engine.task, rows)
    for one in engine.predict(chain(first, examples)):
        yield one.prediction


def make_engine(
    trained: Trained,
    *,
    batch_size: int,
    stretch: int | None = None,
    device: str = "auto",
    precision: Precision = "full",
) -> Engine:
    """An engine on `device` (as `train.device`), in the arithmetic of the saved weights or in another `precision`."""
    torch.nn.Module.to(trained.model, choose_device(device))
    set_precision(trained.model, precision)
    workers = torch.get_num_threads()
    return Engine(trained.model, trained.task, batch_size, autocast=nullcontext, stretch=stretch, num_workers=workers)


def read_examples(task: Task, lines: Iterable[str], *, form: Format, source: str) -> Iterator[Example]:
    """Examples without gold from lines of text or JSON."""
    for number, line in enumerate(lines, start=1):
        where = f"{source}:{number}"
        text = line.rstrip("\r\n")
        yield task.read_input(_parse(text, where) if form == "jsonl" else text, where=where)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"not a JSON object: {error.msg}",
            slug="bad-json",
            where=f"{where}:{error.colno}",
            help="give one JSON object a line, or --format lines for plain text",
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"not a JSON object but {type(value).__name__}", slug="bad-json", where=where)
    return value

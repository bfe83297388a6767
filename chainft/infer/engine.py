"""Predictions of many examples in input order and constant memory: what evaluation and `predict` share.

Features are taken in stretches; inside a stretch they run sorted by length, and the windows of an example
are joined when all of them are done. A million examples never hold more than one stretch of raw results.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from chainft.data.batching import Batch, by_length, feature_lengths
from chainft.data.encoding import encoded
from chainft.data.example import Example
from chainft.data.store import FeatureStore
from chainft.errors import MemoryError_
from chainft.models.device import is_out_of_memory
from chainft.stages.deferred_head import DeferredHead
from chainft.stages.modes import evaluating
from chainft.tasks._text_to_text import TextToText
from chainft.tasks.base import Arrays, Prediction, Scores, Task, merge_scores
from chainft.world import World

BATCHES_A_STRETCH = 32
"""How many batches are sorted by length together: enough to leave little padding."""

Run = Callable[[Sequence[Sequence[Arrays]]], list[list[object]]]
"""From the features of each example to their raw results, on the main process; others get none."""
Poll = Callable[[], None]
"""Called before every batch; raises to stop."""


@dataclass(frozen=True)
class Predicted:
    """One example with its prediction."""

    index: int
    example: Example
    prediction: Prediction


@dataclass
class LossSum:
    """Sum of losses and their number, over what was predicted so far."""

    total: float = 0.0
    count: float = 0.0

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass(frozen=True)
class _Done:
    """What came of one batch."""

    rows: np.ndarray
    """(B,) places in the stretch."""
    raw: Sequence[object]
    losses: Sequence[Mapping[str, tuple[float, float]]]
    """Of each forward pass, by task: their sum and their number."""


@dataclass
class Engine:
    """A model in evaluation mode that predicts with a task.

    Several processes divide the batches among them; the first one gets all results and yields the predictions, so that
    each example counts exactly once, with the very numbers of a single process.
    """

    model: PreTrainedModel
    task: Task
    batch_size: int
    autocast: Callable[[], AbstractContextManager[object]]
    poll: Poll = lambda: None
    stretch: int | None = None
    """Features that are sorted by length together; default: enough to leave little padding."""
    num_workers: int = 1
    """Processes that tokenise."""
    losses: dict[str, LossSum] = field(default_factory=lambda: defaultdict(LossSum))
    """By task where there are several, else under ""."""
    forward: Callable[[Batch], Any] | None = None
    """The model's output for a batch of one store by another way than the model's own forward pass: without padding, or
    from where frozen stages end."""
    follow_up_forward: Callable[[Batch], Any] | None = None
    """The same for a batch that is in no store, such as one of a second pass; None: the model's own forward pass."""
    deferred: DeferredHead | None = None
    """Of a task that writes texts, what leaves the logits of their loss to the loss."""
    world: World = field(default_factory=World)
    retries: bool = True
    """Whether a batch that does not fit in memory is tried in halves: not where other processes compute parts of it, or
    gather for it what they have."""
    in_step: bool = False
    """Whether all copies must call the model equally often, since it is sharded over them."""
    gathered: Callable[[], AbstractContextManager[object]] | None = None
    """Of a sharded model, what lets each copy call it as often as it likes: for tasks that write texts."""
    agree: Poll = lambda: None
    """Called after every stretch on all processes: lets them stop together."""

    def predict_store(
        self, examples: Sequence[Example], store: FeatureStore, *, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Predicted]:
        """Predictions of tokenised examples, in order."""
        first = 0
        if progress:
            progress(0, len(examples))  # Its clock begins now.
        for last in _stretches(store.first_of, self._size()):
            windows = [
                [store[row] for row in range(store.first_of[index], store.first_of[index + 1])]
                for index in range(first, last)
            ]
            run = partial(self._run, first_feature=int(store.first_of[first]))
            yield from self._stretch(examples[first:last], windows, first, run=run)
            first = last
            if progress:
                progress(last, len(examples))

    def predict(self, examples: Iterator[Example]) -> Iterator[Predicted]:
        """Predictions of examples without gold as they come, in order; tokenises them itself.

        What several examples of a stretch have alike is computed once, unless it is written anew for each.
        """
        first = 0
        while pending := list(islice(examples, self._size())):
            windows = list(encoded(self.task, pending, num_workers=self.num_workers))
            yield from self._stretch(pending, windows, first, run=self._run_distinct)
            first += len(pending)

    def _size(self) -> int:
        return self.stretch or self.batch_size * BATCHES_A_STRETCH

    def _stretch(
        self, examples: Sequence[Example], windows: Sequence[Sequence[Arrays]], first: int, *, run: Run
    ) -> Iterator[Predicted]:
        """Predict a stretch of examples, the first of which has number `first`."""
        raw = run(windows)
        self.agree()
        self.poll()
        found: list[Prediction] = []
        if self.world.is_main:
            found = [self.task.decode(*one) for one in zip(examples, windows, raw, strict=True)]
        if type(self.task).follow_up is not Task.follow_up:
            found = self._follow(examples, found)
        for offset, (example, prediction) in enumerate(zip(examples, found, strict=True) if found else ()):
            yield Predicted(first + offset, example, prediction)

    def _follow(self, examples: Sequence[Example], found: Sequence[Prediction]) -> list[Prediction]:
        """The predictions of a stretch with what a second pass says; on the main process, which tells the others of
        what the first one found."""
        told: list[Prediction] = self.world.share(found)
        more = [self.task.follow_up(*one) for one in zip(examples, told, strict=True)]
        raw = self._run(more, first_feature=None)
        self.agree()
        self.poll()
        if not self.world.is_main:
            return []
        return [self.task.concluded(*one) for one in zip(found, more, raw, strict=True)]

    def _run_distinct(self, windows: Sequence[Sequence[Arrays]]) -> list[list[object]]:
        """The same of examples that are in no store; where features are the same, so are their results."""
        if not self.task.evaluates_by_forward:
            return self._run(windows, first_feature=0)
        seen: dict[object, int] = {}
        first_of = [seen.setdefault(_content(several), place) for place, several in enumerate(windows)]
        number_of = {place: number for number, place in enumerate(seen.values())}
        raw = self._run([windows[place] for place in number_of], first_feature=0)
        return [raw[number_of[place]] for place in first_of] if raw else []

    def _run(self, windows: Sequence[Sequence[Arrays]], *, first_feature: int | None) -> list[list[object]]:
        """The raw results of the features of each example, on the main process; None: they are in no store, and have no
        numbers there."""
        rows = [window for several in windows for window in several]
        batches = by_length(feature_lengths(rows), self.batch_size)
        done: list[_Done] = []
        with evaluating(self.model):
            for chosen in batches[self.world.copy :: self.world.num_copies]:
                self.poll()
                done.append(self._run_batch(rows, chosen, first_feature))
            if self.in_step and len(done) < -(-len(batches) // self.world.num_copies):
                self._run_batch(rows, batches[0], first_feature)  # For the others; what comes of it counts not.
        everyone = self.world.gather(done)
        if everyone is None or not self.world.is_main:
            return []
        results: list[object] = [None] * len(rows)
        for number in range(len(batches)):
            one: _Done = everyone[number % len(everyone)][number // len(everyone)]
            self._count(one.losses)
            for row, result in zip(one.rows, one.raw, strict=True):
                results[row] = result
        rest = iter(results)
        return [list(islice(rest, len(several))) for several in windows]

    def _count(self, losses: Iterable[Mapping[str, tuple[float, float]]]) -> None:
        for of_pass in losses:
            for name, (total, count) in of_pass.items():
                self.losses[name].total += total
                self.losses[name].count += count

    def _run_batch(self, rows: Sequence[Arrays], chosen: np.ndarray, first_feature: int | None) -> _Done:
        """One forward pass; in halves when memory runs out."""
        try:
            numbers = None if first_feature is None else first_feature + chosen
            raw, losses = self._forward([rows[i] for i in chosen], numbers)
            return _Done(chosen, raw, [losses])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if not self.retries:
                raise MemoryError_(
                    f"out of memory predicting {len(chosen)} examples, and a model that is divided cannot try fewer by "
                    "itself",
                    slug="out-of-memory",
                    key="evaluation.batch_size",
                    help=f"go on with an evaluation.batch_size below {self.batch_size}",
                ) from error
            if len(chosen) == 1:
                raise MemoryError_(
                    f"out of memory predicting one example of {len(rows[chosen[0]]['input_ids'])} tokens",
                    slug="out-of-memory",
                    key="model.max_length",
                    help="lower model.max_length or take a smaller model",
                ) from error
        half = len(chosen) // 2
        first, second = (self._run_batch(rows, part, first_feature) for part in (chosen[:half], chosen[half:]))
        return _Done(chosen, [*first.raw, *second.raw], [*first.losses, *second.losses])

    def _forward(
        self, rows: Sequence[Arrays], chosen: np.ndarray | None
    ) -> tuple[Sequence[object], Mapping[str, tuple[float, float]]]:
        """`chosen`: the numbers of the rows in the store; without them, there is nothing kept for them."""
        numbers = range(len(rows)) if chosen is None else chosen
        batch = self.task.collate(rows, [int(i) for i in numbers]).to(self.model.device)
        forward = self.follow_up_forward if chosen is None else self.forward
        model: Any = self._caller() if forward is None else lambda **_: forward(batch)
        # Sharded parameters are gathered in place, which tensors of inference mode do not allow later on.
        is_sharded = self.in_step or self.gathered is not None
        with torch.no_grad() if is_sharded else torch.inference_mode(), self.autocast():
            result = self.task.infer(model, batch)
        return result.raw, dict(result.losses)

    def _caller(self) -> Any:
        """What the task calls: of a task that scores in a way of its own always the model."""
        if self.deferred is None or type(self.task).infer is not TextToText.infer:
            return self.model
        return _Deferring(self.model, self.deferred)


def _content(windows: Sequence[Arrays]) -> object:
    """What tells features of other content apart."""
    return tuple(tuple((name, array.tobytes()) for name, array in window.items()) for window in windows)


class _Deferring:
    """A model whose calls leave the logits to the loss; all else is read off the model."""

    def __init__(self, model: PreTrainedModel, deferred: DeferredHead) -> None:
        self.undeferred: Any = model
        """The model itself, for generation."""
        self._deferred = deferred

    def __call__(self, **arguments: Any) -> Any:
        with self._deferred.left_out():
            output = self.undeferred(**arguments)
        return self._deferred.finish(output)

    def __getattr__(self, name: str) -> Any:
        if name == "undeferred":  # Not there yet, as in a copy that is being made.
            raise AttributeError(name)
        return getattr(self.undeferred, name)


def score(
    engine: Engine,
    predicted: Iterator[Predicted],
    *,
    sink: Callable[[Predicted], None] | None = None,
) -> Scores:
    """Count every prediction into the task's metrics, pass it on to `sink`, and return the scores with the loss.

    Of several processes the main one counts; the others get its values, without tables and charts.
    """
    metrics = engine.task.metrics()
    with engine.gathered() if engine.gathered else nullcontext():
        for one in predicted:
            gold, answer = engine.task.gold(one.example), engine.task.predicted(one.prediction)
            for metric in metrics:
                metric.update(gold, one.prediction if metric.needs_scores else answer)
            if sink:
                sink(one)
    if not engine.world.is_main:
        return Scores(values=engine.world.share())
    scores = merge_scores(metric.compute() for metric in metrics)
    losses = {name: one.mean for name, one in engine.losses.items() if one.mean is not None}
    values = {**engine.task.all_loss_scores(losses), **scores.values}
    engine.world.share(values)
    return replace(scores, values=values)


def _stretches(first_of: np.ndarray, features: int) -> Iterator[int]:
    """Ends of runs of whole examples with about `features` features each."""
    start = 0
    for example in range(1, len(first_of)):
        if first_of[example] - first_of[start] >= features or example == len(first_of) - 1:
            yield example
            start = example

"""The training loop: takes steps, and decides when to evaluate, save and stop. Numbers are made in `learner`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from chainft.config.run import Interval, RunConfig
from chainft.data.example import Example
from chainft.errors import DistributedError, DivergedError, Interrupted, Stopped
from chainft.metrics._direction import falls
from chainft.metrics.base import unknown_metric
from chainft.plan.micro_batches import configured_rows
from chainft.run_folder import RunFolder, write_json
from chainft.tasks.base import Scores
from chainft.train.faults import fault_point
from chainft.train.leading import StepFacts, Update
from chainft.train.learner import Course, Learner
from chainft.train.optimizer_state import pack_optimizer, restore_optimizer
from chainft.train.parts import own_part
from chainft.train.recorder import Recorder
from chainft.train.saved import Checkpoint
from chainft.train.shared_checkpoints import SharedCheckpoints
from chainft.train.signals import StopRequest

logger = logging.getLogger(__name__)

FP16_SKIPS = 20
"""Steps in a row that fp16's loss scaling may leave out while it looks for its scale."""


@dataclass(frozen=True)
class FitState:
    """Where training stands; with weights and optimizer state, all that resuming needs."""

    step: int = 0
    evaluated_step: int = 0
    """The last step whose evaluation is done; with `step`, tells whether one was interrupted."""
    best_step: int | None = None
    best_value: float | None = None
    waiting_value: float | None = None
    """What the next evaluation must exceed by `min_delta` for patience to begin anew."""
    evaluations_without_improvement: int = 0
    nonfinite_steps: int = 0
    """Steps in a row that were left out."""
    max_rows: int | None = None
    """Micro-batch after running out of memory; None: as configured."""
    train_time_s: float = 0.0
    stopped_early: bool = False
    before: Mapping[str, Any] | None = None
    """Test scores before the first step."""


Evaluate = Callable[[int], Scores]
"""Scores the validation examples with the current weights; receives the step, for the log."""


class Fit:
    """One training: `run()` goes from the current state to the end."""

    def __init__(
        self,
        learner: Learner,
        checkpoints: SharedCheckpoints,
        *,
        folder: RunFolder,
        recorder: Recorder,
        stop: StopRequest,
        evaluate: Evaluate | None,
        examples: Sequence[Example],
        facts: Mapping[str, Any],
    ) -> None:
        self.learner = learner
        self.checkpoints = checkpoints
        self.folder = folder
        self.recorder = recorder
        self.stop = stop
        self.evaluate = evaluate
        self.examples = examples
        self.facts = facts
        self.state = FitState()
        self.metric = learner.config.evaluation.metric or learner.task.main_metric

    def run(self) -> FitState:
        """Train to the end. Raises Stopped or Interrupted after saving, DivergedError without."""
        with self.checkpoints.settled():
            self._train()
        return self.state

    def _train(self) -> None:
        if self.state.evaluated_step < self.state.step:
            self._after_step()
        ahead: Update | None = None
        begun = 0.0
        """Seconds that went into beginning the step ahead: they count as that step's."""
        while self.state.step < self.learner.course.total_steps and not self.state.stopped_early:
            start = time.perf_counter() - begun
            update = ahead or self.learner.begin(self.state.step)
            ahead, begun = None, 0.0
            if update.leads and self._goes_on():
                beginning = time.perf_counter()
                ahead = self.learner.begin(self.state.step + 1)
                begun = time.perf_counter() - beginning
            facts = update.facts()
            self._count(facts, time.perf_counter() - start - begun)
            self.recorder.step(facts, self._epoch(), self.state.train_time_s)
            self.stop.agree()
            if ahead is None:
                self._after_step()
            else:  # The weights are those of a later step already.
                self.state = replace(self.state, evaluated_step=self.state.step)
                self.checkpoints.rotate()
        if not self.checkpoints.has(self.state.step):
            self.save()

    def save(self) -> None:
        """Save a checkpoint of the current state. Raises DistributedError where copies of the model differ."""
        fault_point("save", step=self.state.step)
        self._check_copies()
        learner = self.learner
        model: Mapping[str, Tensor]
        if learner.division is not None:
            model = learner.division.state()
            tensors, groups = learner.division.optimizer_state(learner.plain_optimizer)
        else:
            model = own_part(learner.plain_model.state_dict(keep_vars=True), learner.world)
            tensors, groups = pack_optimizer(learner.plain_optimizer, learner.plain_model, learner.tables)
            tensors = own_part(tensors, learner.world)
        halved = learner.max_rows < configured_rows(learner.config, learner.world.num_copies)
        state = asdict(replace(self.state, max_rows=learner.max_rows if halved else None))
        self.checkpoints.save(
            self.state.step,
            tensors={"model": model, "optimizer": tensors},
            state={"fit": state, "optimizer": groups, "scaler": self._scaler_state()},
            facts={**self.facts, "step": self.state.step, "epoch": self._epoch()},
        )
        if learner.division is not None:
            learner.division.rest()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put weights, optimizer and counters back as `checkpoint` holds them."""
        self.learner.load(checkpoint.load("model"))
        tensors, json = checkpoint.load("optimizer"), checkpoint.state["optimizer"]
        learner = self.learner
        if learner.division is not None:
            learner.division.restore_optimizer(learner.plain_optimizer, tensors, json)
        else:
            restore_optimizer(learner.plain_optimizer, learner.plain_model, tensors, json, learner.tables)
        self.state = FitState(**checkpoint.state["fit"])
        waited = self.state.evaluations_without_improvement
        self.state = replace(self.state, stopped_early=self._is_out_of_patience(waited))
        self.learner.max_rows = min(self.learner.max_rows, self.state.max_rows or self.learner.max_rows)
        if self.learner.accelerator.scaler is not None and checkpoint.state["scaler"]:
            self.learner.accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
        if self.state.best_step in self.checkpoints.steps():
            self.checkpoints.mark_best(self.state.best_step)

    def _check_copies(self) -> None:
        """What is trained on several processes stays the same on all, bit by bit, or nothing is saved."""
        learner = self.learner
        if learner.sharding is not None:
            return  # No process has what another one has.
        if unlike := learner.world.differing(list(learner.plain_model.state_dict().items())):
            raise DistributedError(
                f"{unlike[0]}{f' and {len(unlike) - 1} others' if unlike[1:] else ''} differ between the processes at "
                f"step {self.state.step}; nothing was saved",
                slug="copies-differ",
                where=str(self.folder.path),
                help="go on from the last checkpoint; if it comes again, a device or the network returns wrong numbers",
            )

    def _after_step(self) -> None:
        """Whatever is due after the current step: stop, evaluation, checkpoint."""
        step = self.state.step
        if self.stop.signal is not None:
            self._save_and_leave()
        pending = self.state.evaluated_step < step
        if pending and self.evaluate is not None and self._due(self.learner.config.evaluation.every):
            self._evaluate(self.evaluate)
        self.state = replace(self.state, evaluated_step=step)
        if self._save_is_due() and not self.checkpoints.has(step):
            self.save()
        self.checkpoints.rotate()
        if self.stop.signal is not None:
            self._save_and_leave()

    def _goes_on(self) -> bool:
        """Whether nothing is due between the step under way and the one after."""
        step, stopped = self.state.step + 1, self.stop.signal is not None
        evaluates = self.evaluate is not None and self._due(self.learner.config.evaluation.every, step)
        return not (stopped or evaluates or self._save_is_due(step) or step == self.learner.course.total_steps)

    def _evaluate(self, evaluate: Evaluate) -> None:
        """Score, remember the best, count patience; saves what was best and what is due."""
        try:
            scores = evaluate(self.state.step)
        except (Stopped, Interrupted):
            self._save_and_leave()  # The evaluation is done again by the run that goes on.
            raise
        value = self._value_of(scores)
        self.recorder.evaluation("validation", self.state.step, self._epoch(), scores)
        progressed = self._gain(value, self.state.waiting_value) > self.learner.config.evaluation.min_delta
        waited = 0 if progressed else self.state.evaluations_without_improvement + 1
        self.state = replace(
            self.state,
            evaluated_step=self.state.step,
            waiting_value=value if progressed else self.state.waiting_value,
            evaluations_without_improvement=waited,
            stopped_early=self._is_out_of_patience(waited),
        )
        if self._gain(value, self.state.best_value) > 0:
            self.state = replace(self.state, best_step=self.state.step, best_value=value)
            self.save()
            self.checkpoints.mark_best(self.state.step)

    def _gain(self, value: float, before: float | None) -> float:
        """How much better `value` is: infinitely so than none before; what is not a number is never better."""
        if not math.isfinite(value):
            return -math.inf
        if before is None:
            return math.inf
        return value - before if greater_is_better(self.learner.config, self.metric) else before - value

    def _is_out_of_patience(self, waited: int) -> bool:
        patience = self.learner.config.evaluation.patience
        return patience is not None and waited >= patience

    def _value_of(self, scores: Scores) -> float:
        if self.metric not in scores.values:
            raise unknown_metric(self.metric, scores.values)
        return scores.values[self.metric]

    def _count(self, facts: StepFacts, seconds: float) -> None:
        """Advance the state by a step; stop where too many steps in a row were not finite."""
        nonfinite = 0 if facts.finite else self.state.nonfinite_steps + 1
        allowed = self.learner.config.train.max_nonfinite_steps
        if nonfinite > (max(allowed, FP16_SKIPS) if self.learner.accelerator.scaler is not None else allowed):
            self._diverged(facts)
        if nonfinite:
            logger.warning("step %d left out: loss %s, gradient norm %s", facts.step, facts.loss, facts.grad_norm)
        spent = self.state.train_time_s + seconds
        self.state = replace(self.state, step=facts.step, nonfinite_steps=nonfinite, train_time_s=spent)

    def _diverged(self, facts: StepFacts) -> None:
        chosen = [(index, self.examples[index]) for index in self.learner.examples_of(facts.step - 1)]
        path = self.folder.path / "bad_batch.json"
        batch = [{"example": index, "where": one.where(), "values": dict(one.values)} for index, one in chosen]
        record = {"step": facts.step, "loss": str(facts.loss), "grad_norm": str(facts.grad_norm), "examples": batch}
        if self.learner.world.is_main:
            write_json(path, record)
        raise DivergedError(
            f"step {facts.step}: the loss is {facts.loss}, the gradient norm {facts.grad_norm}; the update was left out",
            slug="not-finite",
            where=f"{path} (the examples of this batch)",
            key="optimizer.lr",
            help=f"lower optimizer.lr ({self.learner.config.optimizer.lr:g}), warm up longer, or look at these examples"
            + ("; with fp16, try train.mixed_precision=bf16" if self.learner.accelerator.scaler is not None else ""),
        )

    def _save_and_leave(self) -> None:
        if self.state.step > 0 and not self.checkpoints.has(self.state.step):
            self.save()
        self.checkpoints.settle()
        self.stop.check()

    def _save_is_due(self, step: int | None = None) -> bool:
        """Checkpoints come with the evaluations unless configured otherwise; each epoch where there are none."""
        settings = self.learner.config
        if settings.checkpoint.every != "evaluation":
            return self._due(settings.checkpoint.every, step)
        return self._due("epoch" if self.evaluate is None else settings.evaluation.every, step)

    def _due(self, every: Interval, step: int | None = None) -> bool:
        """After `step`; None: after the current one."""
        return is_due(every, self.state.step if step is None else step, self.learner.course)

    def _epoch(self) -> float:
        return self.learner.course.epoch_at(self.state.step)

    def _scaler_state(self) -> Mapping[str, Any] | None:
        scaler = self.learner.accelerator.scaler
        return scaler.state_dict() if scaler is not None else None


def is_due(every: Interval, step: int, course: Course) -> bool:
    """Whether something that happens `every` so often happens after `step` updates; always after the last one."""
    if step == course.total_steps:
        return True
    if every == "epoch":
        interval = course.steps_per_epoch
    elif isinstance(every, float):
        interval = max(1, round(every * course.total_steps))
    else:
        interval = every
    return step % interval == 0


def greater_is_better(config: RunConfig, metric: str) -> bool:
    """The direction of a metric: as configured, else losses and perplexity fall and everything else rises."""
    if config.evaluation.greater_is_better is not None:
        return config.evaluation.greater_is_better
    return not falls(metric)

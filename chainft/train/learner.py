"""One optimizer update, exactly: the only place of the training loop where numbers are computed.

The loss of a step is the sum over all targets of its global batch divided by their number, however the batch
is cut into micro-batches. What is random in a step (dropout) is seeded by (seed, step, micro-batch), so a step
depends on nothing but the state before it: that is what makes resuming bitwise exact.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from chainft.config.run import RunConfig
from chainft.data.batching import Batch, epoch_order, micro_batches, packed_batches, rank_shares
from chainft.errors import MemoryError_
from chainft.infer.forward import Forward
from chainft.models.device import float64_device, is_out_of_memory
from chainft.plan.micro_batches import configured_rows
from chainft.stages.compiled import Compiled
from chainft.stages.loss import loss_of
from chainft.stages.modes import KeptModes
from chainft.stages.policy import Conduct
from chainft.train.clipping import clip
from chainft.train.faults import fault_point
from chainft.train.leading import Outcome, StepFacts, Update, is_leading
from chainft.train.offload import Offload
from chainft.train.placing import Placed
from chainft.train.schedule import lr_factor
from chainft.train.seeding import seed_step
from chainft.train.sharding import Sharding
from chainft.train.slices import as_number
from chainft.train.word_table import WordTable
from chainft.world import World

if TYPE_CHECKING:
    from chainft.data.store import FeatureStore
    from chainft.tasks.base import Task

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Order(Protocol):
    """The examples of an epoch, (num_examples,), in their order: a function of seed and epoch alone."""

    def __call__(self, *, seed: int, epoch: int) -> np.ndarray: ...


OVERHEAD_TOKENS = {"cpu": 80, "cuda": 2048, "mps": 1024}
"""Cost of one more micro-batch in tokens. CPU: with MiniLM on two cores a pass costs 50 ms and 0.6 ms a token; the
others are estimates. Whatever the value, it only moves time."""


@dataclass(frozen=True)
class Course:
    """How many updates make an epoch and the whole training."""

    num_examples: int
    batch_size: int
    total_steps: int

    @classmethod
    def of(cls, config: RunConfig, num_examples: int) -> Course:
        per_epoch = math.ceil(num_examples / config.train.batch_size)
        # The small term undoes float error such as 1.1 * 100 = 110.00000000000001.
        total = config.train.max_steps or max(1, math.ceil(config.train.num_train_epochs * per_epoch - 1e-9))
        return cls(num_examples, config.train.batch_size, total)

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_examples / self.batch_size)

    def epoch_at(self, step: int) -> float:
        """Epochs done after `step` updates."""
        return step / self.steps_per_epoch


class Learner:
    """Model, optimizer and data of one process; `update(step)` does the step from the state after `step` updates."""

    def __init__(
        self,
        model: PreTrainedModel,
        task: Task,
        store: FeatureStore,
        *,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        config: RunConfig,
        conduct: Conduct | None = None,
        order: Order | None = None,
        tables: Sequence[WordTable] = (),
        forward: Forward | None = None,
        world: World | None = None,
        division: Sharding | Placed | Offload | None = None,
        compiled: Compiled | None = None,
    ) -> None:
        self.config = config
        self.compiled = compiled
        """The blocks that are compiled; None: they run as they are."""
        self.division = division
        """How the model is divided among processes, which then go through it in step, or into stages that stream in and
        out; None: this process has all of it."""
        self.placed = division if isinstance(division, Placed) else None
        self.offload = division if isinstance(division, Offload) else None
        self.sharding = self.placed.sharding if self.placed else division if isinstance(division, Sharding) else None
        self.world = world or World()
        """The processes that share the rows of each batch."""
        self.tables = tables
        """Embeddings of which only some rows are trained; the optimizer has these."""
        self.conduct = conduct
        """What stages do in this step; None: every parameter is trained from the start."""
        self.task = task
        self.store = store
        self.accelerator = accelerator
        self.course = Course.of(config, len(store.first_of) - 1)
        self._order_of = order or partial(epoch_order, self.course.num_examples)
        self.max_rows = configured_rows(config, self.world.num_copies)
        """Most rows in one forward pass; halved when memory runs out, and kept in the checkpoint."""
        self.plain_optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("peak_lr", config.optimizer.lr)
        self.plain_model = model
        # As for evaluation: Accelerate brings autocast, the sum over processes is ours (`World.sum_gradients`).
        self.model = accelerator.prepare_model(model, evaluation_mode=True)
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self._parameters = list(model.parameters())
        self._modes = KeptModes(self.model, conduct.set_modes if conduct else lambda: None)
        self.forward = forward or Forward(model, task)
        self.forward.model = self.model
        self.leads = is_leading(optimizer, accelerator, self.world, division)
        """Whether a step may begin while the device computes the one before."""
        self._order: tuple[int, np.ndarray] | None = None

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Give the model the weights of a checkpoint."""
        if self.division is not None:
            self.division.load(state)
        else:
            self.plain_model.load_state_dict(state)

    def update(self, step: int) -> StepFacts:
        """One update; its gradient is made anew by smaller micro-batches when memory runs out."""
        return self.begin(step).facts()

    def begin(self, step: int) -> Update:
        """The same, without waiting for the device where that is possible."""
        lr = self._set_lr(step)
        if self.leads:
            return self._lead(step, lr)
        loss, norm, tokens = self._gradient(step)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            self._apply(step)
        elif self.accelerator.scaler is not None:
            self.accelerator.scaler.update()  # fp16 looks for a smaller scale, and may unscale again.
        self.optimizer.zero_grad(set_to_none=True)
        facts = StepFacts(step + 1, loss, lr, norm, len(self.examples_of(step)), tokens, finite)
        return Update(lambda: facts, leads=False)

    def _lead(self, step: int, lr: float) -> Update:
        """Everything of an update handed to the GPU, which leaves it out by itself where it is not finite."""
        loss, tokens = self._within_memory(step, self._forward_and_backward)
        parameters = [one for one in self._trained() if one.grad is not None]
        norm = self.accelerator.clip_grad_norm_(parameters, self.config.train.max_grad_norm or math.inf)
        is_bad = (outcome := Outcome.of(loss, norm)).is_bad
        self.plain_optimizer.found_inf = is_bad  # type: ignore[attr-defined] # As `torch.amp.GradScaler` hands it on.
        self._apply(step, is_bad)
        self.optimizer.zero_grad(set_to_none=True)
        arrived, num_examples = outcome.send(), len(self.examples_of(step))

        def facts() -> StepFacts:
            loss, norm, finite = arrived()
            return StepFacts(step + 1, loss, lr, norm, num_examples, tokens, finite)

        return Update(facts, leads=True)

    def measure(self, step: int, *, most: int | None = None) -> None:
        """The forward and backward passes of a step without the update: for time, and to try the memory.

        `most`: of so many examples only.
        """
        float(self._within_memory(step, partial(self._forward_and_backward, most=most))[0])  # Waits for the device.
        self.optimizer.zero_grad(set_to_none=True)

    def rows_of(self, step: int, *, most: int | None = None) -> list[int]:
        """The features of a step's global batch, or of its first examples: all windows of each."""
        first = self.store.first_of
        return [row for example in self.examples_of(step)[:most] for row in range(first[example], first[example + 1])]

    def examples_of(self, step: int) -> Sequence[int]:
        """The examples of a step's global batch."""
        epoch, position = divmod(step, self.course.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._order_of(seed=self.config.seed, epoch=epoch))
        start = position * self.course.batch_size
        return [int(example) for example in self._order[1][start : start + self.course.batch_size]]

    def micro_batches_of(self, step: int, *, most: int | None = None) -> list[Batch]:
        """What this process has of the global batch of a step, cut by length."""
        rows = self.rows_of(step, most=most)
        if self.world.num_copies == 1:
            return list(self.task.balanced(self._cut(rows)))
        shares = self._shares(rows)
        if not self.task.tasks:
            return list(self.task.balanced(self._cut(shares[self.world.copy])))
        # How much a row of one task counts beside those of others follows from the whole batch.
        batches = [self._cut(share) for share in shares]
        balanced = self.task.balanced([batch for several in batches for batch in several])
        start = sum(len(several) for several in batches[: self.world.copy])
        return list(balanced[start : start + len(batches[self.world.copy])])

    def _shares(self, rows: Sequence[int]) -> list[list[int]]:
        """The rows of a global batch that each copy gets."""
        lengths = self.store.lengths[rows]
        shares = rank_shares(lengths.tolist(), self.world.num_copies, padded=not self.forward.packs(lengths))
        return [[rows[position] for position in share] for share in shares]

    def _cut(self, rows: Sequence[int]) -> list[Batch]:
        """Rows as micro-batches."""
        if not rows:
            return []
        lengths = self.store.lengths[rows]
        limits: Any = {"max_rows": self.max_rows, "max_tokens": self.config.train.micro_batch_tokens}
        if self.forward.packs(lengths):
            groups = packed_batches(lengths.tolist(), **limits)
        else:
            overhead = OVERHEAD_TOKENS.get(self.accelerator.device.type, 64)
            groups = micro_batches(lengths.tolist(), **limits, overhead=overhead)
        features = [[rows[position] for position in group] for group in groups]
        return [self.task.collate([self.store[row] for row in chosen], chosen) for chosen in features]

    def _within_memory(self, step: int, work: Callable[[int], Result]) -> Result:
        """Work until the memory suffices on every process: all make their micro-batches smaller together."""
        while True:
            done: list[Result] = []
            try:
                done.append(work(step))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.division is not None and self.offload is None:
                    raise self._out_of_step(step) from error
                # Leave the handler first: its traceback holds the tensors that filled the memory.
            if not self.world.most(not done):
                return done[0]
            done.clear()
            self.optimizer.zero_grad(set_to_none=True)
            self._halve_micro_batch(step)

    def _gradient(self, step: int) -> tuple[float, float, int]:
        """The clipped gradient of the whole batch; its loss a target, the norm before clipping, and its tokens."""
        own_loss, own_tokens = self._within_memory(step, self._forward_and_backward)
        loss, tokens = self.world.totals(float(own_loss), own_tokens)
        parameters = self._trained()
        if self.sharding is None:
            self.world.sum_gradients(parameters)
        return loss, self._clip(parameters), int(tokens)

    def _apply(self, step: int, is_bad: torch.Tensor | None = None) -> None:
        """Change the weights; not where `is_bad` () is 1 on the device.

        Not tried again when memory runs out: some of them may have changed already.
        """
        try:
            if self.offload is not None:
                self.offload.step(self.optimizer)
            else:
                self.optimizer.step()
            for table in self.tables:
                table.decay(self._decay_of(table), unless=is_bad)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise MemoryError_(
                f"out of memory at step {step + 1} for the state of the optimizer {type(self.plain_optimizer).__name__}",
                slug="out-of-memory",
                key="optimizer.name",
                help="take an optimizer with less state (optimizer=sgd, lion or adafactor) or a smaller model",
            ) from error

    def _forward_and_backward(self, step: int, *, most: int | None = None) -> tuple[torch.Tensor, int]:
        """This process's part of the gradient of the whole batch, of its loss () a target, and of its tokens."""
        with self.compiled.active() if self.compiled else nullcontext():
            return self._by_micro_batches(step, most=most)

    def _by_micro_batches(self, step: int, *, most: int | None) -> tuple[torch.Tensor, int]:
        batches = self.micro_batches_of(step, most=most)
        (num_targets,) = self.world.totals(sum(self.task.num_targets(batch) for batch in batches))
        self._modes.restore()
        if self.conduct is not None:
            self.conduct.set_flags(step, self.course.total_steps)
        if staged := self.placed or self.offload:
            fault_point("forward", step=step + 1)
            return self._by_stages(staged, step, batches, num_targets)
        total = torch.zeros((), dtype=torch.float64, device=float64_device(self.accelerator.device))
        for number, batch in enumerate(self._in_step(step, batches)):
            seed_step(self.config.seed, step, number, device=self.accelerator.device, copy=self.world.copy)
            fault_point("forward", step=step + 1)
            moved = batch.to(self.accelerator.device)
            with self.accelerator.autocast():
                output = self.forward(moved)
            loss = loss_of(self.task, output, moved) / max(num_targets, 1e-12)
            if number >= len(batches):
                loss = loss * 0.0
            if fault_point("loss", step=step + 1):
                loss = loss * float("nan")
            fault_point("backward", step=step + 1)
            self.accelerator.backward(loss if self.sharding is None else loss * self.sharding.loss_scale)
            total += loss.detach().to(total.device, torch.float64)
            del output, loss  # What leads to them stands in the way of a recording.
        return total, sum(int(batch.lengths.sum()) for batch in batches)

    def _by_stages(
        self, staged: Placed | Offload, step: int, batches: list[Batch], num_targets: float
    ) -> tuple[torch.Tensor, int]:
        """The same stage by stage; of a pipeline, all places have the loss of the whole."""

        def seed(number: int) -> None:
            seed_step(self.config.seed, step, number, device=self.accelerator.device, copy=self.world.copy)

        run = self._in_step(step, batches)
        num_idle = len(run) - len(batches)
        loss = staged.gradient(run, max(num_targets, 1e-12), seed=seed, num_idle=num_idle) if run else 0.0
        if fault_point("loss", step=step + 1):
            loss = math.nan
        return torch.tensor(loss, dtype=torch.float64), sum(int(batch.lengths.sum()) for batch in batches)

    def _in_step(self, step: int, batches: list[Batch]) -> list[Batch]:
        """The micro-batches; of a sharded model as many as the copy with the most has, the added ones without weight."""
        if self.sharding is None:
            return batches
        missing = int(self.world.most(len(batches))) - len(batches)
        if not missing:
            return batches
        row = self.rows_of(step)[0]
        return batches + [self.task.collate([self.store[row]], [row])] * missing

    def _decay_of(self, table: WordTable) -> float:
        """What decoupled weight decay multiplies a parameter by in this update."""
        group = next(one for one in self.plain_optimizer.param_groups if any(p is table.rows for p in one["params"]))
        return float(1 - group["lr"] * group["weight_decay"])

    def _trained(self) -> list[torch.Tensor]:
        """All that the optimizer changes, in an order that is the same on every process."""
        return [*(table.rows for table in self.tables), *self._parameters]

    def _clip(self, trained: Sequence[torch.Tensor]) -> float:
        limit = self.config.train.max_grad_norm
        if staged := self.placed or self.offload:
            return staged.clip(limit)
        parameters = [one for one in trained if one.grad is not None]
        if self.accelerator.device.type == "cpu" and self.sharding is None and self.accelerator.scaler is None:
            return clip(parameters, limit)
        return as_number(self.accelerator.clip_grad_norm_(parameters, math.inf if limit is None else limit))

    def _set_lr(self, step: int) -> float:
        factor = lr_factor(step, total_steps=self.course.total_steps, config=self.config.scheduler)
        for group in self.plain_optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return self.config.optimizer.lr * factor

    def _out_of_step(self, step: int) -> MemoryError_:
        """The other copies are in the midst of exchanges with this one: it can't try again."""
        return MemoryError_(
            f"out of memory at step {step + 1}, and a model that is divided cannot try a smaller micro-batch by itself",
            slug="out-of-memory",
            key="train.micro_batch_size",
            help=f"go on with a train.micro_batch_size below {self.max_rows}, or with more processes",
        )

    def _halve_micro_batch(self, step: int) -> None:
        if self.forward.make_room():
            return
        if self.max_rows == 1:
            raise MemoryError_(
                f"out of memory at step {step + 1} with one example at a time",
                slug="out-of-memory",
                key="train.micro_batch_size",
                help="lower model.max_length, set train.gradient_checkpointing=true, or take a smaller model",
            )
        most = max(map(len, self._shares(self.rows_of(step))))
        self.max_rows = max(1, min(self.max_rows, most) // 2)
        logger.warning(
            "out of memory at step %d: going on with at most %d examples at a time, the same batch of %d",
            step + 1,
            self.max_rows,
            self.config.train.batch_size,
        )

"""Several tasks on one trunk: the task `joint`. Each text goes through the trunk once and then to the heads.

An example holds the values of the tasks that it is for, by their names; training data have one each, and a text that
a user brings has all. Tasks whose inputs are equal token by token share a feature, so its columns are those of the
trunk's inputs, and for each of its tasks `<task>.<column>`. Letters: B rows, b of them of one task, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from chainft.config.joint import RESERVED, JointConfig
from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.data.joint import inner, named, of_task
from chainft.errors import ConfigError, Problem, did_you_mean
from chainft.metrics._direction import falls
from chainft.metrics._joint import MEAN, JointMetric
from chainft.registry import find
from chainft.tasks._joint_rows import PART, has_part, join_results, own_row, same_inputs, split_row
from chainft.tasks.base import About, Arrays, BatchResult, Column, Field, Labels, Metric, Mistake, Prediction, Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from chainft.data.batching import Batch, Share


class Joint(Task):
    """Tasks that are learned together. `Joint(config)` gives one that is chosen by the mean of their main metrics."""

    config_class: ClassVar[type[TaskConfig]] = JointConfig
    config: JointConfig
    fields: ClassVar[tuple[Field, ...]] = ()
    auto_class: ClassVar[str] = ""
    main_metric: ClassVar[str] = MEAN
    metric_family: ClassVar[str] = "joint"
    about: ClassVar[About] = About(
        "Several tasks on one trunk", sample="I ordered a lamp from Siemens in Berlin and it has not arrived."
    )

    def __new__(cls, config: TaskConfig) -> Self:
        """Where a main metric falls, such as a loss, there is no mean of scores: the loss chooses."""
        assert isinstance(config, JointConfig)
        falling = any(falls(task.main_metric) for task in _tasks(config).values())
        chosen: Any = (JointByLoss if falling else Joint) if cls is Joint else cls
        made: Self = super().__new__(chosen)
        return made

    def __init__(self, config: JointConfig) -> None:
        self.tasks = _tasks(config)
        super().__init__(config)
        _check_weights(config)
        self.features = self._features()  # type: ignore[misc]  # Other tasks know theirs before there is one.

    def adopt(self, tasks: Mapping[str, Task]) -> None:
        """Take these tasks, which are ready to predict, for its own of the same names."""
        self.tasks = {name: tasks[name] for name in self.tasks}
        first = next(iter(self.tasks.values()))
        self.tokenizer, self.max_length = first.tokenizer, min(task.max_length for task in self.tasks.values())

    # Data ---------------------------------------------------------------------------------------

    @property
    def labels(self) -> Labels:
        """The labels of all tasks, each as `<task>/<label>`."""
        found = {name: task.labels for name, task in self.tasks.items()}
        names = tuple(f"{name}/{label}" for name, labels in found.items() for label in labels.names)
        counts = {f"{name}/{label}": count for name, one in found.items() for label, count in one.counts.items()}
        return Labels(names, counts)

    @labels.setter
    def labels(self, labels: Labels) -> None:
        for name, task in self.tasks.items():
            start = f"{name}/"
            mine = tuple(one.removeprefix(start) for one in labels.names if one.startswith(start))
            counts = {one.removeprefix(start): n for one, n in labels.counts.items() if one.startswith(start)}
            task.labels = Labels(mine, counts)

    def validate(self, example: Example) -> Iterator[Problem]:
        for name in example.values:
            yield from self.tasks[name].validate(inner(example, name))

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        for name, task in self.tasks.items():
            with named(name):
                task.learn_labels(of_task(splits, name), unseen=unseen)

    @property
    def foreign_labels(self) -> frozenset[str]:
        return frozenset(f"{name}/{label}" for name, task in self.tasks.items() for label in task.foreign_labels)

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        """Nothing: the contract looks at each task by itself."""
        yield from ()

    # Features -----------------------------------------------------------------------------------

    def adapt(self, architecture: PreTrainedConfig) -> None:
        for task in self.tasks.values():
            task.adapt(architecture)

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        super().prepare(tokenizer, max_length=max_length)
        for name, task in self.tasks.items():
            with named(name):
                task.prepare(tokenizer, max_length=max_length)

    def encode(self, example: Example) -> list[Arrays]:
        rows: list[Arrays] = []
        for name in example.values:
            task, after = self.tasks[name], 0
            windows = task.encode(inner(example, name))
            for window in windows:
                trunk, own = split_row(name, task, window, 1 / len(windows))
                place = next((i for i in range(after, len(rows)) if same_inputs(rows[i], trunk)), len(rows))
                rows[place : place + 1] = [{**trunk, **(rows[place] if place < len(rows) else {}), **own}]
                after = place + 1
        return rows

    def num_tokens(self, example: Example) -> int:
        return max(self.tasks[name].num_tokens(inner(example, name)) for name in example.values)

    def collate(self, rows: Sequence[Arrays], features: Sequence[int]) -> Batch:
        """The rows for the trunk, and for each task a share: its rows as it would have them by itself."""
        from chainft.data.batching import Batch, collate

        whole = collate([self._trunk(row, rows) for row in rows], self, features)
        shares = {name: self._share(name, rows, features) for name in self.tasks}
        found = {name: share for name, share in shares.items() if share is not None}
        return Batch(whole.inputs, {}, whole.features, whole.lengths, found)

    # Model --------------------------------------------------------------------------------------

    def arguments(self, batch: Batch) -> dict[str, Any]:
        """The inputs of the trunk, and for each task the rows and the inputs of its head."""
        parts = {name: (share.rows, share.batch.inputs) for name, share in batch.shares.items()}
        return {**batch.inputs, "parts": parts}

    def balanced(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Each task's losses count as their mean over the update, times its examples in it and its weight."""
        scales: dict[str, float] = {}
        for name, task in self.tasks.items():
            mine = [batch.shares[name] for batch in batches if name in batch.shares]
            targets = sum(task.num_targets(share.batch) for share in mine)
            weight = self.config.weights.get(name, 1.0)
            scales[name] = weight * sum(share.num_examples for share in mine) / max(targets, 1e-12)
        return [
            replace(batch, shares={name: replace(one, scale=scales[name]) for name, one in batch.shares.items()})
            for batch in batches
        ]

    def planned(self) -> Task:
        configs = {name: task.planned().config for name, task in self.tasks.items()}
        twin = Joint(replace(self.config, tasks=configs))
        twin.labels = self.labels
        return twin

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """The sum over tasks; before it, `balanced` has seen all batches of the update."""
        losses = [
            share.scale * self.tasks[name].loss(output[name], share.batch) for name, share in batch.shares.items()
        ]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total

    def num_targets(self, batch: Batch) -> float:
        """Examples."""
        return sum(share.num_examples for share in batch.shares.values())

    # Prediction ---------------------------------------------------------------------------------

    @property
    def evaluates_by_forward(self) -> bool:
        return all(task.evaluates_by_forward for task in self.tasks.values())

    def infer(self, model: PreTrainedModel, batch: Batch) -> BatchResult:
        """One pass of the trunk for all heads; tasks that infer in their own way run theirs on their head."""
        plain = [name for name in batch.shares if self.tasks[name].evaluates_by_forward]
        results: dict[str, BatchResult] = {}
        if plain:
            parts = {name: batch.shares[name] for name in plain}
            output = model(**self.arguments(replace(batch, shares=parts)))
            results = {name: self.tasks[name].result(output[name], parts[name].batch) for name in plain}
        for name in batch.shares.keys() - results.keys():
            heads: Any = model.heads
            results[name] = self.tasks[name].infer(heads[name], batch.shares[name].batch)
        return join_results(results, batch)

    def raw(self, output: Any, batch: Batch) -> Sequence[Mapping[str, Any]]:
        results = {
            name: BatchResult(self.tasks[name].raw(output[name], one.batch), {}) for name, one in batch.shares.items()
        }
        return join_results(results, batch).raw

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        return {
            name: self.tasks[name].decode(
                inner(example, name),
                [own_row(window, name) for window in windows if has_part(window, name)],
                [one[name] for window, one in zip(windows, raw, strict=True) if has_part(window, name)],
            )
            for name in example.values
        }

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """What all tasks read, each in its own way."""
        found = {name: task.read_input(value, where=where) for name, task in self.tasks.items()}
        first = next(iter(found.values()))
        return replace(first, values={name: one.values for name, one in found.items()})

    # Scores -------------------------------------------------------------------------------------

    def gold(self, example: Example) -> dict[str, Any]:
        return {name: self.tasks[name].gold(inner(example, name)) for name in example.values}

    def predicted(self, prediction: Prediction) -> dict[str, Any]:
        return {name: self.tasks[name].predicted(one) for name, one in prediction.items()}

    @property
    def needs_tuning(self) -> bool:
        return any(task.needs_tuning for task in self.tasks.values())

    def tuned(self, pairs: Iterable[tuple[Example, Prediction]]) -> TaskConfig:
        """Each task's settings by the validation examples that are for it."""
        kept = list(pairs)
        for name, task in self.tasks.items():
            if task.needs_tuning:
                task.config = task.tuned((inner(one, name), made[name]) for one, made in kept if name in one.values)
        return replace(self.config, tasks={name: task.config for name, task in self.tasks.items()})

    def metrics(self) -> list[Metric]:
        return [
            JointMetric(
                {name: task.metrics() for name, task in self.tasks.items()},
                {name: task.main_metric for name, task in self.tasks.items()},
                {name: task.predicted for name, task in self.tasks.items()},
            )
        ]

    def all_loss_scores(self, losses: Mapping[str, float]) -> Mapping[str, float]:
        """Those of each task, and as `loss` their mean by weights."""
        scores: dict[str, float] = {}
        if losses:
            weights = {name: self.config.weights.get(name, 1.0) for name in losses}
            scores["loss"] = sum(weights[name] * one for name, one in losses.items()) / sum(weights.values())
        for name, loss in losses.items():
            own = self.tasks[name].all_loss_scores({"": loss})
            scores |= {f"{name}/{key}": value for key, value in own.items()}
        return scores

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        """The worst of its tasks, with the task's name."""
        found = {
            name: mistake
            for name in example.values
            if (mistake := self.tasks[name].mistake(inner(example, name), prediction[name])) is not None
        }
        if not found:
            return None
        name = max(found, key=lambda one: found[one].badness)
        worst = found[name]
        return replace(worst, gold=f"{name}: {worst.gold}", predicted=f"{name}: {worst.predicted}")

    # Parts --------------------------------------------------------------------------------------

    def _features(self) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        for name, task in self.tasks.items():
            for key, column in task.features.items():
                if column.model_input and column.axis != "tokens":
                    raise ConfigError(
                        f"task {name!r} ({task.config.name}) gives the model {key!r}, which no other task has",
                        slug="unsupported-task",
                        key=f"task.tasks.{name}",
                        help="learn it in a run of its own",
                    )
                columns[key if column.model_input else f"{name}.{key}"] = column
            columns[f"{name}.{PART}"] = Column(pad=0, dtype="float32", axis=None)
        return columns

    def _trunk(self, row: Arrays, rows: Sequence[Arrays]) -> Arrays:
        """The inputs of the trunk; those that only other rows have, such as token types, are 0."""
        names = [name for name, column in self.features.items() if column.model_input and any(name in r for r in rows)]
        return {name: row.get(name, np.zeros(len(row["input_ids"]), np.int32)) for name in names}

    def _share(self, name: str, rows: Sequence[Arrays], features: Sequence[int]) -> Share | None:
        import torch

        from chainft.data.batching import Share

        mine = [place for place, row in enumerate(rows) if has_part(row, name)]
        if not mine:
            return None
        own = [own_row(rows[place], name) for place in mine]
        parts = sum(float(rows[place][f"{name}.{PART}"][0]) for place in mine)
        batch = self.tasks[name].collate(own, [features[place] for place in mine])
        return Share(torch.tensor(mine), batch, parts)


class JointByLoss(Joint):
    """The best checkpoint is the one with the least loss."""

    main_metric: ClassVar[str] = "loss"


def _tasks(config: JointConfig) -> dict[str, Task]:
    """A task for each setting. Raises ConfigError where there are fewer than two, or one joins others itself."""
    if len(config.tasks) < 2:
        raise ConfigError(
            f"at least two tasks are learned together, and task.tasks names {len(config.tasks) or 'none'}",
            slug="missing-key",
            key="task.tasks",
            help="such as task.tasks.entities.name=ner task.tasks.intent.name=classify",
        )
    made: dict[str, Task] = {}
    for name, one in config.tasks.items():
        is_name = name.isidentifier() and not name.startswith("_") and name not in RESERVED
        if isinstance(one, JointConfig) or not is_name:
            message = f"task {name!r} is joint itself" if is_name else f"no task can be named {name!r}"
            help = "name its tasks one by one" if is_name else "letters, digits and _ make a name"
            help = f"such as {name}_task: torch needs this name itself" if name in RESERVED else help
            raise ConfigError(message, slug="bad-name", key="task.tasks", help=help)
        with named(name):
            made[name] = find("task", one.name, key="task.name")(one)
    return made


def _check_weights(config: JointConfig) -> None:
    for name in config.weights:
        if name not in config.tasks:
            raise ConfigError(
                f"no task is named {name!r}",
                slug="unknown-task",
                key=f"task.weights.{name}",
                help=did_you_mean(name, config.tasks) or f"the tasks are: {', '.join(config.tasks)}",
            )


PLUGIN = Joint

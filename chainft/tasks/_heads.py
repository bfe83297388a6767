"""What tasks with several heads share: each head is a task, and the trunk is run once for the rows of all of them.

The columns of a feature are those of the trunk's inputs, and for each head `<head>.<column>`. Which features an example
has, and what is read and answered, say the tasks themselves (`joint`, `extract`). Letters: B rows, b of them of one
head, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from chainft.config.run import TaskConfig
from chainft.data.joint import named
from chainft.errors import ConfigError
from chainft.tasks._joint_rows import PART, has_part, join_results, own_row
from chainft.tasks.base import Arrays, BatchResult, Column, Labels, Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from chainft.data.batching import Batch, Share


class Heads(Task):
    """A task that learns other tasks, each with a head on one trunk."""

    auto_class: ClassVar[str] = ""

    def __init__(self, config: TaskConfig, tasks: Mapping[str, Task], weights: Mapping[str, float]) -> None:
        """`weights`: what the loss of a head counts, by its name; default 1."""
        self.tasks = tasks
        self.weights = weights
        super().__init__(config)
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

    # Features -----------------------------------------------------------------------------------

    def adapt(self, architecture: PreTrainedConfig) -> None:
        for task in self.tasks.values():
            task.adapt(architecture)

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        super().prepare(tokenizer, max_length=max_length)
        for name, task in self.tasks.items():
            with named(name):
                task.prepare(tokenizer, max_length=max_length)

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
            weight = self.weights.get(name, 1.0)
            scales[name] = weight * sum(share.num_examples for share in mine) / max(targets, 1e-12)
        return [
            replace(batch, shares={name: replace(one, scale=scales[name]) for name, one in batch.shares.items()})
            for batch in batches
        ]

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

    # Scores -------------------------------------------------------------------------------------

    def all_loss_scores(self, losses: Mapping[str, float]) -> Mapping[str, float]:
        """Those of each task, and as `loss` their mean by weights."""
        scores: dict[str, float] = {}
        if losses:
            weights = {name: self.weights.get(name, 1.0) for name in losses}
            scores["loss"] = sum(weights[name] * one for name, one in losses.items()) / sum(weights.values())
        for name, loss in losses.items():
            own = self.tasks[name].all_loss_scores({"": loss})
            scores |= {f"{name}/{key}": value for key, value in own.items()}
        return scores

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

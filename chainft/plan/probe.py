"""The model without weights and batches of any size for it: what a plan is measured on. No data is read."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from chainft import registry
from chainft.config.joint import JointConfig
from chainft.config.run import RunConfig
from chainft.data.batching import Batch
from chainft.errors import ConfigError
from chainft.models.load import prepare
from chainft.models.own_heads import forget_head, put_head
from chainft.models.task_modules import attach
from chainft.plan.trace import Ghostly
from chainft.stages.links_load import architecture_of, linked_skeleton, read_tokenizer
from chainft.stages.skeleton import fill_with_ghosts, skeleton
from chainft.stages.trunk import JointModel
from chainft.stages.trunk_load import check_joint
from chainft.tasks._joint_rows import joint_row
from chainft.tasks.base import Arrays, Column, Labels, Task

NUM_LABELS = 2
"""Classes of a head where the user gives no number: they are known when the data is read."""


def new_task(config: RunConfig, num_labels: int) -> Task:
    """The task with its tokenizer and placeholders for its labels, where it has any. Raises ChainftError."""
    settings = _without_names(config.task)
    task: Task = registry.find("task", settings.name, key="task.name")(settings)
    tokenizer, max_length = read_tokenizer(config, needs_offsets=task.needs_offsets)
    task.adapt(architecture_of(config))
    for one in (*task.tasks.values(), task):
        if has_labels(one) and not one.tasks:
            one.labels = Labels(tuple(f"label{number}" for number in range(num_labels)))
        one.tokenizer, one.max_length = tokenizer, max_length
    return task


def _without_names(settings: Any) -> Any:
    """The settings without class weights, which name labels and change neither bytes nor FLOPs."""
    if isinstance(settings, JointConfig):
        return dataclasses.replace(settings, tasks={name: _without_names(one) for name, one in settings.tasks.items()})
    is_weighted = getattr(settings, "class_weights", None) is not None
    return dataclasses.replace(settings, class_weights=None) if is_weighted else settings


def has_labels(task: Task) -> bool:
    """Whether the size of the head depends on the labels of the data."""
    own = any(field.kind in ("label", "labels", "tags") for field in task.fields)
    return own or any(map(has_labels, task.tasks.values()))


def new_skeleton(config: RunConfig, task: Task) -> Any:
    """The model with the task's head, without weights. Raises ModelError."""
    if config.chain.is_linked:
        return linked_skeleton(config, task)
    if task.tasks:
        check_joint(config.chain)
        return JointModel({name: _one_head(config, one) for name, one in task.tasks.items()})
    return _one_head(config, task)


def _one_head(config: RunConfig, task: Task) -> PreTrainedModel:
    auto, _, architecture, _ = prepare(config.model, task)
    forget_head(architecture)
    model = skeleton(auto, architecture)
    if config.head.name is not None:
        put_head(model, config.head)
        fill_with_ghosts(model)
        model.train(False)
    attach(model, task.modules())
    return model


def checked_length(config: RunConfig, task: Task, length: int | None) -> int:
    """Tokens of a sequence: what is asked for, else the most that the model takes. Raises ConfigError."""
    if length is None:
        return task.max_length
    model = dataclasses.replace(config.model, max_length=length)
    try:
        asked = dataclasses.replace(config, model=model)
        return read_tokenizer(asked, needs_offsets=task.needs_offsets)[1]
    except ConfigError as error:
        first = error.problems[0]
        raise ConfigError(f"--length {length}: {first.message}", slug=first.slug, where="--length") from error


def make_batch(task: Task, rows: int, length: int) -> Batch:
    """A batch of this size in which all rows but the first end with padding, so that there is a mask."""
    return task.collate([make_row(task, length - (row > 0)) for row in range(rows)], list(range(rows)))


def make_row(task: Task, length: int) -> Arrays:
    """One feature of this length; of several tasks, one that all of them learn from."""
    if task.tasks:
        return joint_row({name: make_row(one, length) for name, one in task.tasks.items()}, task)
    known = {"input_ids", *task.tokenizer.model_input_names}
    return {
        name: _values(task, name, column, length)
        for name, column in task.features.items()
        if not column.model_input or name in known
    }


def _values(task: Task, name: str, column: Column, length: int) -> np.ndarray:
    if name == "input_ids":
        return _ids(task, length)
    if column.axis is not None:
        return np.zeros(length, dtype=np.int32)
    if name == "labels" and column.dtype == "float32":
        return np.zeros(len(task.labels.names) or 1, dtype=np.float32)  # A task without labels has one number.
    return np.ones(1, dtype=column.dtype) if column.dtype == "float32" else np.zeros(1, dtype=np.int32)


def _ids(task: Task, length: int) -> np.ndarray:
    """A word again and again, and the end mark, which some heads look for."""
    special = set(task.tokenizer.all_special_ids)
    ids = np.full(length, next(number for number in range(len(task.tokenizer)) if number not in special))
    ends = (task.tokenizer.eos_token_id, task.tokenizer.sep_token_id)
    ids[-1] = next((end for end in ends if isinstance(end, int)), ids[0])
    return ids.astype(np.int32)


def ghostly() -> Ghostly:
    """The context in which a skeleton is changed without ever taking the memory of its weights."""
    return Ghostly()  # type: ignore[no-untyped-call]

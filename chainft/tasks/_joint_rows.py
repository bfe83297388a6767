"""Features of several tasks that share the inputs of a trunk: what is whose, and how they are put together.

The columns of a feature are those of the trunk's inputs, and for each of its tasks `<task>.<column>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from chainft.tasks.base import Arrays, BatchResult, Task

if TYPE_CHECKING:
    from chainft.data.batching import Batch

PART = "part"
"""Column `<task>.part`: the feature is for the task, and this part of an example (1 / its windows)."""


def joint_row(rows: Mapping[str, Arrays], task: Task) -> Arrays:
    """One feature of several tasks, each with its own by the same inputs."""
    joined: Arrays = {}
    for name, row in rows.items():
        trunk, own = split_row(name, task.tasks[name], row, 1.0)
        joined |= trunk | own
    return joined


def split_row(name: str, task: Task, window: Arrays, part: float) -> tuple[Arrays, Arrays]:
    """What of a task's feature is the trunk's input, and the rest under the task's name."""
    trunk = {key: array for key, array in window.items() if _is_input(task, key)}
    own = {f"{name}.{key}": array for key, array in window.items() if key not in trunk}
    return trunk, own | {f"{name}.{PART}": np.array([part], dtype=np.float32)}


def _is_input(task: Task, column: str) -> bool:
    return column in task.features and task.features[column].model_input


def same_inputs(row: Arrays, trunk: Arrays) -> bool:
    """Whether a feature has exactly these inputs."""
    own = {name for name in row if "." not in name}
    return own == trunk.keys() and all(np.array_equal(row[name], trunk[name]) for name in own)


def has_part(row: Arrays, name: str) -> bool:
    """Whether a feature is for the task."""
    return f"{name}.{PART}" in row


def own_row(row: Arrays, name: str) -> Arrays:
    """The feature as the task by itself has it."""
    start = f"{name}."
    own = {key.removeprefix(start): array for key, array in row.items() if key.startswith(start)}
    del own[PART]
    return own | {key: array for key, array in row.items() if "." not in key}


def join_results(results: Mapping[str, BatchResult], batch: Batch) -> BatchResult:
    """The raw results of each row by task, and the losses by task."""
    raw: list[dict[str, Any]] = [{} for _ in batch.features]
    for name, result in results.items():
        for place, one in zip(batch.shares[name].rows.tolist(), result.raw, strict=True):
            raw[place][name] = one
    return BatchResult(raw, {name: result.losses[""] for name, result in results.items() if "" in result.losses})

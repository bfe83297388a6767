"""Settings of several tasks that are learned together on one model: what each is, and where its data come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from chainft.config.ranges import Positive
from chainft.config.run import DataConfig, TaskConfig


@dataclass(frozen=True, kw_only=True)
class JointConfig(TaskConfig):
    """Several tasks on one trunk: the model is shared, and each task has a head of its own."""

    tasks: Mapping[str, TaskConfig] = field(default_factory=dict)
    """The tasks by names of your own, each with its settings: `{entities: {name: ner}, intent: {name: classify}}`."""
    sampling: Literal["proportional", "temperature", "round_robin"] = "proportional"
    """How often examples of each task are drawn: as often as it has examples; by the power 1 / `temperature` of that
    number; or equally often, in turn."""
    temperature: Positive | None = None
    """With `sampling: temperature`: 1 is proportional, more evens out; default 2."""
    weights: Mapping[str, Positive] = field(default_factory=dict)
    """What the loss of a task counts, by its name; default 1."""


@dataclass(frozen=True, kw_only=True)
class JointDataConfig(DataConfig):
    """The data of each task; `unseen_labels` and `cache_dir` are for all of them."""

    tasks: Mapping[str, DataConfig] = field(default_factory=dict)
    """Task name -> its data, each with a source of its own: `{entities: {name: conll, train: train.conll}}`."""


DEFAULT_TEMPERATURE = 2.0
"""Of `sampling: temperature`."""


def data_parts(data: DataConfig) -> Mapping[str, DataConfig]:
    """Dotted key -> settings of one set of data: `data` alone, or of several tasks each `data.tasks.NAME`."""
    if isinstance(data, JointDataConfig):
        return {f"data.tasks.{name}": one for name, one in data.tasks.items()}
    return {"data": data}


RESERVED = frozenset(
    [
        "T_destination",
        "add_module",
        "apply",
        "bfloat16",
        "buffers",
        "call_super_init",
        "children",
        "clear",
        "compile",
        "cpu",
        "cuda",
        "double",
        "dump_patches",
        "eval",
        "extra_repr",
        "float",
        "forward",
        "get_buffer",
        "get_extra_state",
        "get_parameter",
        "get_submodule",
        "half",
        "ipu",
        "items",
        "keys",
        "load_state_dict",
        "modules",
        "mtia",
        "named_buffers",
        "named_children",
        "named_modules",
        "named_parameters",
        "parameters",
        "pop",
        "register_backward_hook",
        "register_buffer",
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_load_state_dict_post_hook",
        "register_load_state_dict_pre_hook",
        "register_module",
        "register_parameter",
        "register_state_dict_post_hook",
        "register_state_dict_pre_hook",
        "requires_grad_",
        "set_extra_state",
        "set_submodule",
        "share_memory",
        "smart_apply",
        "state_dict",
        "to",
        "to_empty",
        "train",
        "training",
        "type",
        "update",
        "values",
        "xpu",
        "zero_grad",
    ]
)
"""What torch's `ModuleDict`, which holds the heads by name, calls its own parts (one by transformers): no names of tasks."""

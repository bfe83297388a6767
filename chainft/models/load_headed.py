"""Loads models whose head may be a plug-in: for training with `head=NAME`, and as a run saved them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from chainft.config.run import HeadConfig, ModelConfig
from chainft.errors import ModelError
from chainft.models.load import load_config, load_model, prepare, with_modules
from chainft.models.own_heads import head_of, put_head, read_head
from chainft.models.read import LoadedModel, explained, read_weights

if TYPE_CHECKING:
    from chainft.tasks.base import Task


def load_with_head(config: ModelConfig, head: HeadConfig, task: Task, *, seed: int) -> LoadedModel:
    """As `load_model`, with the plug-in that `head` names (if any) in the place of the last layer of the model's head.

    A head that the weights bring is kept where it is the same with the same settings and for the same labels in their
    order; else it is refused unless `model.head` is `new`. A new one is drawn with `seed`.
    """
    if head.name is None:
        return load_model(config, task, seed=seed)
    saved = head_of(load_config(config)) if config.pretrained and config.head == "auto" else None
    if saved is not None:
        return _kept(config, head, saved, task)
    loaded = load_model(replace(config, head="new") if config.pretrained else config, task, seed=seed)
    torch.manual_seed(seed)
    path = put_head(loaded.model, head)
    return _told(loaded, path, fresh=True)


def load_trained(folder: str, task: Task) -> PreTrainedModel:
    """A model as a run saved it: every tensor must be there and fit. Raises ModelError."""
    config = ModelConfig(path=folder)
    loaded = load_with_head(config, head_of(load_config(config)) or HeadConfig(), task, seed=0)
    if loaded.new:
        raise ModelError(
            f"the model folder {folder!r} lacks {', '.join(loaded.new[:5])}",
            slug="missing-tensors",
            where=folder,
            help="the folder is damaged or not one that chainft trained for this task",
        )
    if loaded.unused:
        raise ModelError(
            f"the model folder {folder!r} has {', '.join(loaded.unused[:5])}, for which the task has no use as it is set",
            slug="unused-tensors",
            where=folder,
            help="leave the settings of task that change the model, such as task.crf, as they were in training",
        )
    return loaded.model


def _kept(config: ModelConfig, head: HeadConfig, saved: HeadConfig, task: Task) -> LoadedModel:
    """The model with the head that its weights bring."""
    prepared = prepare(config, task)
    if saved != head:
        raise _other_head(
            config,
            f"the head {saved.name!r} with other settings" if saved.name == head.name else f"the head {saved.name!r}",
        )
    names = tuple(task.labels.names)
    if names and prepared.old_labels != names:
        raise _other_head(config, f"a head {saved.name!r} for other labels, or for these in another order")
    loaded, _ = read_weights(prepared.auto, prepared.place, prepared.architecture)
    path = put_head(loaded.model, head)
    with explained(prepared.place, "model"):
        read_head(loaded.model, path, prepared.place)
    return with_modules(_told(loaded, path, fresh=False), task, prepared)


def _told(loaded: LoadedModel, path: str, *, fresh: bool) -> LoadedModel:
    """What happened when the weights were read, the layer left out whose place the head took."""
    own = [f"{path}.{name}" for name, _ in loaded.model.get_submodule(path).named_parameters()] if fresh else []
    start = f"{path}."
    new = (name for name in loaded.new if not name.startswith(start))
    unused = (name for name in loaded.unused if fresh or not name.startswith(start))
    return LoadedModel(loaded.model, (*new, *own), tuple(unused))


def _other_head(config: ModelConfig, what: str) -> ModelError:
    return ModelError(
        f"{config.path!r} brings {what}",
        slug="wrong-head",
        key="model.path",
        help="start with a new head by model.head=new, or keep the settings of head and the labels as they were",
    )

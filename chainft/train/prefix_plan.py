"""Whether a run uses the prefix cache, and which entries: what is decided before anything is computed."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator

from chainft import __version__
from chainft.config.cache_rules import nothing_to_keep
from chainft.config.run import CacheConfig, RunConfig
from chainft.data.cache import default_cache_dir
from chainft.data.example import Split
from chainft.data.prefix_layout import Layout
from chainft.data.prefix_store import FORMAT, PrefixEntry, Shape
from chainft.data.store import FeatureStore
from chainft.errors import ConfigError, StorageError
from chainft.report.words import size
from chainft.stages.gates import Gates
from chainft.stages.linked_prefix import LinkedPrefix, find_linked_prefix
from chainft.stages.links import LinkedModel
from chainft.stages.prefix import BlockPrefix, Obstacle, find_prefix
from chainft.tasks.base import Task
from chainft.train.learner import Course
from chainft.train.prepare import Prepared

logger = logging.getLogger(__name__)

_GIB = 1 << 30
_ROOM = 1.05
"""How much more than the outputs must be free: what else is written meanwhile."""


@dataclass(frozen=True)
class PrefixPlan:
    """The frozen beginning of the model, and where its outputs are or will be."""

    prefix: BlockPrefix | LinkedPrefix
    entries: Mapping[Split, PrefixEntry]
    missing_bytes: int

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries.values())

    def facts(self) -> dict[str, Any]:
        """What `plan.json` holds."""
        return {
            "used": True,
            "blocks": self.prefix.blocks,
            "stages": list(self.prefix.stages),
            "bytes": self.bytes,
            "computed_bytes": self.missing_bytes,
            "dtype": next(iter(self.entries.values())).shape.stored,
            "entries": {split: entry.folder.name for split, entry in self.entries.items()},
        }


@dataclass(frozen=True)
class Unused:
    """Why a run computes its frozen stages in every step."""

    because: str
    remedy: str | None = None

    def facts(self) -> dict[str, Any]:
        """What `plan.json` holds."""
        return {"used": False, "because": self.because, "remedy": self.remedy}


def plan_prefix(
    config: RunConfig, prepared: Prepared, accelerator: Accelerator, *, before: bool | None
) -> PrefixPlan | Unused | None:
    """Decide; None for a chain without frozen beginning. `before`: whether the run that goes on used the cache, which
    it then does again, so that its numbers are those of the unbroken run.

    Raises ConfigError or StorageError where `cache.prefix=true`, or the run that goes on, needs it and cannot have it.
    """
    if nothing_to_keep(config.chain)[0] is not None:
        return None
    wanted = config.cache.prefix
    if wanted == "auto" and before is not None and "cache.prefix" not in config.allow_change:
        wanted = before
    if wanted is False:
        return Unused("cache.prefix = false" if config.cache.prefix is False else "the run began without it")
    prefix = _find(prepared)
    if isinstance(prefix, Obstacle):
        return _refused(config, prefix, required=wanted is True)
    plan = _with_entries(config, prepared, accelerator, prefix)
    if wanted == "auto" and not _pays(config, prepared, plan):
        return _without(config.cache, Unused("training passes over the data once", "set cache.prefix=true"))
    return _with_room(config, plan, required=wanted is True, goes_on=before is True)


def _find(prepared: Prepared) -> BlockPrefix | LinkedPrefix | Obstacle:
    model, pad = prepared.loaded.model, prepared.task.pad_token_id
    if isinstance(model, LinkedModel):
        return find_linked_prefix(prepared.chain, model, pad_token_id=pad)
    gates = Gates(model)
    found = find_prefix(prepared.chain, gates, pad_token_id=pad)
    return found if isinstance(found, Obstacle) else BlockPrefix(gates, found)


def _refused(config: RunConfig, obstacle: Obstacle, *, required: bool) -> Unused:
    """Not possible on this model."""
    if required:
        raise ConfigError(
            f"the outputs of frozen stages cannot be kept: {obstacle.because}",
            slug="cannot-cache",
            key="cache.prefix",
            help=f"{obstacle.remedy}, or leave cache.prefix away",
        )
    return _without(config.cache, Unused(obstacle.because, obstacle.remedy))


def _without(cache: CacheConfig, unused: Unused) -> Unused:
    """Raise ConfigError where settings of the cache would be ignored."""
    for name in ("dtype", "max_gib"):
        if getattr(cache, name) != getattr(CacheConfig, name):
            raise ConfigError(
                f"cache.{name} = {getattr(cache, name)} has no effect: no outputs are kept, because {unused.because}",
                slug="no-effect",
                key=f"cache.{name}",
                help=unused.remedy,
            )
    return unused


def _with_entries(
    config: RunConfig, prepared: Prepared, accelerator: Accelerator, prefix: BlockPrefix | LinkedPrefix
) -> PrefixPlan:
    root = (Path(config.data.cache_dir) if config.data.cache_dir else default_cache_dir()) / "prefix"
    with accelerator.autocast():
        states = prefix.states(prefix.probe())
    shape = Shape(states.shape[-1], config.cache.dtype, str(states.dtype).removeprefix("torch."))
    weights, hidden = prefix.digest(), config.train.hidden_dtype
    about = {"model": type(prefix.model.base_model).__name__, "blocks": prefix.blocks}
    entries: dict[Split, PrefixEntry] = {}
    for split, store in prepared.stores.items():
        if split == "train" or prepared.task.evaluates_by_forward:
            key = _key(weights, shape, task=prepared.task, store=store, accelerator=accelerator, hidden=hidden)
            entries[split] = PrefixEntry(root / key, Layout(store.lengths, shape.token_bytes), shape, about)
    return PrefixPlan(prefix, entries, sum(entry.missing_bytes for entry in entries.values()))


def _key(weights: str, shape: Shape, *, task: Task, store: FeatureStore, accelerator: Accelerator, hidden: str) -> str:
    """Digest of all that the states of a split depend on; labels, head and task are not among it."""
    columns = [name for name, column in task.features.items() if column.model_input and name != "labels"]
    depends = {
        "format": FORMAT,
        "versions": [__version__, torch.__version__, transformers.__version__],
        "weights": weights,
        "rows": store.digest(columns),
        "pad": task.pad_token_id,
        "stored": shape.stored,
        "computed": shape.computed,
        "autocast": accelerator.mixed_precision,
        "hidden": hidden,
        "device": accelerator.device.type,
        "matmul": torch.get_float32_matmul_precision(),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:40]


def _pays(config: RunConfig, prepared: Prepared, plan: PrefixPlan) -> bool:
    """Whether rows are read more than once, or are all there."""
    course = Course.of(config, len(prepared.splits.examples["train"]))
    return course.total_steps > course.steps_per_epoch or not plan.entries["train"].missing_bytes


def _with_room(config: RunConfig, plan: PrefixPlan, *, required: bool, goes_on: bool) -> PrefixPlan | Unused:
    """The plan, if its entries fit; else a warning, or an error where they are needed."""
    root = next(iter(plan.entries.values())).folder.parent
    there = next(folder for folder in (root, *root.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    limit = config.cache.max_gib * _GIB
    if plan.bytes > limit:
        because = f"they take {size(plan.bytes)}, and cache.max_gib = {config.cache.max_gib:g}"
        key, remedy = "cache.max_gib", f"set cache.max_gib={plan.bytes / _GIB * _ROOM:.3g}, or cache.dtype=bfloat16"
    elif plan.missing_bytes * _ROOM > free:
        because = f"they take {size(plan.missing_bytes)} more, and {size(free)} are free at {str(there)!r}"
        key, remedy = "data.cache_dir", "free space ('chainft cache ls' shows what is kept), or set data.cache_dir"
    else:
        return plan
    if required:
        remedy += "; or go on without them by cache.prefix=false 'allow_change=[cache.prefix]'" if goes_on else ""
        raise StorageError(
            f"the outputs of frozen stages cannot be kept: {because}", slug="no-room", key=key, help=remedy
        )
    logger.warning("the outputs of frozen stages are not kept, so every step computes them: %s; %s", because, remedy)
    return Unused(because, remedy)

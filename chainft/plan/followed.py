"""The chain of a config on a model without weights, and the training step that was followed on it.

What a plan is made from, of one process as of many: each micro-batch of each is such a step.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from chainft.config.run import RunConfig
from chainft.plan.balance import balanced_cuts
from chainft.plan.measure import Step, measure_step
from chainft.plan.micro_batches import configured_rows
from chainft.plan.probe import NUM_LABELS, checked_length, ghostly, make_batch, new_skeleton, new_task
from chainft.plan.trace import PHASES
from chainft.stages.blocks import Blocks, find_blocks
from chainft.stages.chain import Chain, build_chain, is_trivial
from chainft.stages.links_load import check_models
from chainft.stages.measure import block_bytes
from chainft.stages.policy import recompute_all
from chainft.stages.spans import equal_spans
from chainft.tasks.base import Task


@dataclass(frozen=True)
class Asked:
    """For what the plan is made, beside the config."""

    length: int | None = None
    """Tokens of each sequence; None: the most that the model takes."""
    num_labels: int | None = None
    """Classes of the head, where the task has labels."""


@dataclass(frozen=True)
class Followed:
    """A chain without weights, and what one forward and backward pass of a micro-batch does."""

    config: RunConfig
    task: Task
    chain: Chain
    step: Step
    rows: int
    """Of the micro-batch."""
    length: int
    """Tokens of each row."""
    num_labels: int

    @property
    def num_micro_batches(self) -> int:
        """Of one copy in one update."""
        return math.ceil(rows_of_copy(self.config) / self.rows)

    @property
    def parts_of_batch(self) -> float:
        """Micro-batches of this size in the whole batch, over all copies."""
        return self.config.train.batch_size / self.rows


def follow(config: RunConfig, asked: Asked) -> Followed:
    """Follow a step; no weights are read. Raises ChainftError for what does not fit together."""
    check_models(config)
    num_labels = asked.num_labels or NUM_LABELS
    task = new_task(config, num_labels)
    length = checked_length(config, task, asked.length)
    rows = min(configured_rows(config, num_copies(config)), rows_of_copy(config))
    tokens = config.train.micro_batch_tokens
    size = (max(1, min(rows, tokens // length)) if tokens else rows, length)
    chain = new_chain(config, task, size)
    is_whole = is_trivial(config.chain) and not config.launch.is_pipeline
    blocks = None if is_whole or config.chain.is_linked else find_blocks(chain.model)
    step = _measure(chain, task, config, blocks, size)
    return Followed(config, task, chain, step, *size, num_labels)


def num_copies(config: RunConfig) -> int:
    """Processes, or pipelines of them, that share a batch."""
    count = config.launch.num_processes
    return count // config.launch.pipeline if isinstance(count, int) else 1


def rows_of_copy(config: RunConfig) -> int:
    """Most rows of a batch that one copy gets."""
    return math.ceil(config.train.batch_size / num_copies(config))


def new_chain(config: RunConfig, task: Task, size: tuple[int, int]) -> Chain:
    """The chain on a model without weights, cut by FLOPs or bytes where the config says `split: auto`."""
    with ghostly():
        cuts = _automatic_cuts(config, task, size)
        chain = build_chain(new_skeleton(config, task), without_imports(config), cuts=cuts)
        if config.train.gradient_checkpointing:
            recompute_all(chain.model)
        chain.set_recomputation()
    return chain


def without_imports(config: RunConfig) -> RunConfig:
    """The config without weights of earlier runs, which change no shape."""
    stages = {name: dataclasses.replace(stage, from_=None) for name, stage in config.chain.stages.items()}
    return dataclasses.replace(config, chain=dataclasses.replace(config.chain, stages=stages))


def _automatic_cuts(config: RunConfig, task: Task, size: tuple[int, int]) -> list[int] | None:
    """Where `split: auto` would cut if time were FLOPs; training measures seconds."""
    count = config.chain.num_stages
    if config.chain.split != "auto" or count is None:
        return None
    model = new_skeleton(config, task)
    blocks = find_blocks(model)
    if count > blocks.num_blocks:
        equal_spans(blocks.map, count)  # Raises what it raises for a number given outright.
    if config.chain.balance == "memory":
        return balanced_cuts(block_bytes(model), count)
    whole = dataclasses.replace(config, chain=type(config.chain)())
    step = _measure(build_chain(model, whole), task, config, blocks, size)
    both = [sum(step.flops.get((unit, phase), 0) for phase in PHASES) for unit in range(blocks.num_blocks)]
    return balanced_cuts(both, count)


def _measure(chain: Chain, task: Task, config: RunConfig, blocks: Blocks | None, size: tuple[int, int]) -> Step:
    mixed = config.train.mixed_precision != "no"
    return measure_step(
        chain,
        task,
        lambda rows, length: make_batch(task, rows, length),
        blocks=blocks,
        size=size,
        mixed=mixed,
        defers=not config.launch.divides and config.train.mixed_precision != "fp16",
    )

"""The plan of a run: what will be trained on what, in how many steps, for how long. Printed before step 1."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from chainft.config.run import RunConfig
from chainft.errors import ConfigError
from chainft.infer.forward import Forward
from chainft.models.stage_models import stage_models
from chainft.plan.pipeline_schedule import make_schedule
from chainft.train.learner import Learner
from chainft.train.prepare import Prepared
from chainft.train.schedule import warmup_steps_of


def model_facts(config: RunConfig, prepared: Prepared) -> dict[str, Any]:
    """What the plan says of model and stages: of the whole, before parts of it go to other processes."""
    model = prepared.loaded.model
    return {
        "model": {
            "path": ", ".join(dict.fromkeys(one.path for one in stage_models(config).values())),
            "class": type(model).__name__,
            "heads": list(prepared.task.tasks),
            "head": config.head.name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "trainable": sum(p.numel() for p in model.parameters() if prepared.chain.trains(p)),
            "new": list(prepared.loaded.new),
            "max_length": prepared.task.max_length,
        },
        "stages": prepared.chain.describe() if len(prepared.chain.parts) > 1 else [],
    }


def make_plan(
    config: RunConfig,
    prepared: Prepared,
    learner: Learner,
    *,
    facts: Mapping[str, Any],
    run: Path,
    from_step: int,
) -> dict[str, Any]:
    """The content of `plan.json`; `facts` are those of the model.

    Rehearses one step for the time estimate, which leaves no trace.
    """
    course = learner.course
    seconds = rehearse(learner, from_step) if from_step < course.total_steps else 0.0
    return {
        "task": config.task.name,
        "run": str(run),
        **facts,
        "data": _data(prepared),
        "batch_size": config.train.batch_size,
        "padding_free": learner.forward.packing is not None,
        "read_tokens_only": learner.forward.reads is not None,
        "read_tokens_head": _has_token_head(learner.forward),
        "logits_in_loss": learner.forward.deferred is not None,
        "compiled": learner.compiled is not None,
        "cuda_graphs": _has_graphs(config, learner),
        "micro_batches_per_step": len(learner.micro_batches_of(min(from_step, course.total_steps - 1))),
        "steps": course.total_steps,
        "from_step": from_step,
        "steps_per_epoch": course.steps_per_epoch,
        "epochs": course.epoch_at(course.total_steps),
        "optimizer": config.optimizer.name,
        "lr": config.optimizer.lr,
        "scheduler": config.scheduler.name,
        "warmup_steps": warmup_steps_of(course.total_steps, config.scheduler),
        "mixed_precision": config.train.mixed_precision,
        "hidden_dtype": config.train.hidden_dtype,
        "device": str(learner.accelerator.device),
        "processes": _processes(config, learner, min(from_step, course.total_steps - 1)),
        "offload": _offload(config, learner),
        "seed": config.seed,
        "estimated_time_s": seconds * (course.total_steps - from_step),
    }


def _processes(config: RunConfig, learner: Learner, step: int) -> dict[str, Any] | None:
    """How the work is divided; None for one process."""
    world, launch = learner.world, config.launch
    if world.is_alone:
        return None
    facts: dict[str, Any] = {"number": world.size, "copies": world.num_copies, "fsdp": launch.fsdp}
    if learner.placed is not None:
        count = len(learner.micro_batches_of(step))
        schedule = make_schedule(launch.schedule, launch.pipeline, launch.stages_of_place, max(1, count))
        facts["pipeline"] = {
            "places": launch.pipeline,
            "schedule": launch.schedule,
            "stages": [
                {"blocks": list(span.blocks), "place": place}
                for span, place in zip(learner.placed.spans, schedule.ranks, strict=True)
            ],
            "micro_batches": count,
            "bubble_fraction": schedule.bubble,
        }
    return facts


def _offload(config: RunConfig, learner: Learner) -> dict[str, Any] | None:
    """The stages that stream in and out; None where the model stays on the device."""
    if learner.offload is None:
        return None
    stages = [list(span.blocks) for span in learner.offload.spans]
    return {"rests_in": config.launch.offload, "stages": stages}


def rehearse(learner: Learner, step: int) -> float:
    """Seconds of the forward and backward passes of a step; weights, optimizer and random state stay as they are.

    A pass of a few examples before it does not count: it allocates memory and starts threads.
    """
    random_state = torch.random.get_rng_state()
    few = learner.compiled is None and learner.forward.graphs is None
    learner.measure(step, most=2 if few else None)  # Few rows are compiled, and recorded, apart from many.
    if learner.forward.graphs is not None:
        learner.measure(step)  # Is recorded.
    start = time.perf_counter()
    learner.measure(step)
    seconds = time.perf_counter() - start
    torch.random.set_rng_state(random_state)
    return seconds


def _has_token_head(forward: Forward) -> bool:
    """Whether the head runs for the tokens that are read, and no others."""
    return forward.reads is not None and forward.packing is not None and forward.packing.has_token_head


def _has_graphs(config: RunConfig, learner: Learner) -> bool:
    """Whether passes of the rehearsal were recorded. Raises ConfigError where `train.cuda_graphs=true` has no effect."""
    graphs = learner.forward.graphs
    if graphs is None or graphs.num_recorded:
        return graphs is not None
    thaws = learner.conduct is not None and learner.conduct.unfreezes
    if config.train.cuda_graphs is True and graphs.is_idle and not thaws:
        raise ConfigError(
            "train.cuda_graphs = true has no effect: no block is trained, nor anything before them",
            slug="no-effect",
            key="train.cuda_graphs",
            help="leave it away",
        )
    return False


def _data(prepared: Prepared) -> dict[str, Any]:
    splits: dict[str, Any] = {
        name: {
            "examples": len(prepared.splits.examples[name]),
            "features": len(store),
            "tokens": int(store.lengths.sum()),
        }
        for name, store in prepared.stores.items()
    }
    return {**splits, "labels": list(prepared.task.labels.names)}

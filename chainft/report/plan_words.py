"""The plan of a run (`plan.json`) in words: for the console before training and for the page after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chainft.report.words import duration, number, plural, short, size

_MOST_LABELS = 12


def plan_lines(plan: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What the plan says, as names and texts."""
    yield "model", _model_line(plan["model"])
    for stage in plan.get("stages") or ():
        yield f"  {stage['name']}", stage_line(stage)
    if plan.get("prefix_cache"):
        yield "cache", _cache_line(plan["prefix_cache"])
    data = plan["data"]
    splits = [f"{name} {_split_words(data[name])}" for name in ("train", "validation", "test") if name in data]
    yield "data", " · ".join(splits)
    if data.get("labels"):
        yield "labels", _labels_line(data["labels"])
    parts = plan.get("micro_batches_per_step", 1)
    yield "batch", plural(plan["batch_size"], "example") + (f" in {parts} micro-batches" if parts > 1 else "")
    yield "steps", _steps_line(plan)
    warmup = f", warm-up {plural(plan['warmup_steps'], 'step')}" if plan.get("warmup_steps") else ""
    yield "optimizer", f"{plan['optimizer']}, learning rate {short(plan['lr'])}, {plan['scheduler']}{warmup}"
    precision = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(plan["mixed_precision"], "")
    hidden = ", hidden states too" if plan.get("hidden_dtype") == "bfloat16" else ""
    compiled = ", blocks compiled" if plan.get("compiled") else ""
    compiled += ", CUDA graphs" if plan.get("cuda_graphs") else ""
    yield "machine", f"{plan['device']}, {precision or plan['mixed_precision']}{hidden}{compiled}, seed {plan['seed']}"
    if processes := plan.get("processes"):
        yield "processes", _processes_line(processes)
    if plan.get("estimated_time_s"):
        yield "time", f"about {duration(plan['estimated_time_s'])} of training, plus evaluation"


def _processes_line(processes: Mapping[str, Any]) -> str:
    copies, pipeline = processes["copies"], processes.get("pipeline")
    sharded = "parameters, gradients and optimizer state sharded over them" if processes["fsdp"] else ""
    if pipeline is None:
        return f"{processes['number']}, which share each batch" + (f"; {sharded}" if sharded else "")
    stages = ", ".join(f"{_range(one['blocks'])} on {one['place']}" for one in pipeline["stages"])
    times = f"{copies} pipelines of {pipeline['places']}, which share each batch" if copies > 1 else "one pipeline"
    idle = f"{plural(pipeline['micro_batches'], 'micro-batch', 'micro-batches')}, idle for {number(pipeline['bubble_fraction'])} of a step"
    blocks = f"{pipeline['schedule']}: blocks {stages}; {idle} if all stages take the same time"
    return f"{processes['number']}, {times}" + (f", {sharded}" if sharded else "") + f"; {blocks}"


def _range(blocks: Sequence[int]) -> str:
    return f"{blocks[0]}:{blocks[-1] + 1}" if blocks else "(none)"


def _model_line(model: Mapping[str, Any]) -> str:
    total, trainable = model["parameters"], model["trainable"]
    head = f", head {model['head']}" if model.get("head") else ""
    trained = "all trained" if total == trainable else f"{trainable:,} trained ({number(trainable / total)})"
    fresh = dict.fromkeys(name.rpartition(".")[0] or name for name in model.get("new") or ())
    new = f", new: {', '.join(fresh)}" if fresh else ""
    return f"{model['path']} ({model['class']}{head}), {total:,} parameters, {trained}; at most {model['max_length']} tokens{new}"


def stage_line(stage: Mapping[str, Any]) -> str:
    """What a stage is and what is trained in it."""
    total, trainable, later = stage["parameters"], stage["trainable"], stage["trained_later"]
    trained = "frozen" if not trainable else "trained" if trainable == total else f"{trainable:,} trained"
    after = ", trained later" if later and later == trainable else f", {later:,} of them later" if later else ""
    shares = f", shares with {', '.join(stage['shared_with'])}" if stage["shared_with"] else ""
    origin = f", weights {stage['weights_from']}" if "weights_from" in stage else ""
    return f"{stage['blocks']}: {total:,} parameters, {trained}{after}{shares}{origin}"


def _cache_line(cache: Mapping[str, Any]) -> str:
    """What is kept of frozen stages, or why nothing is."""
    if not cache["used"]:
        remedy = f" ({cache['remedy']})" if cache["remedy"] else ""
        return f"outputs of frozen stages are not kept: {cache['because']}{remedy}"
    computed = size(cache["computed_bytes"])
    new = (
        "found there" if not cache["computed_bytes"] else f"{computed} of it new, in {duration(cache['opened_in_s'])}"
    )
    return f"{cache['blocks']} computed once, outputs on disk: {size(cache['bytes'])} of {cache['dtype']}, {new}"


def _split_words(split: Mapping[str, Any]) -> str:
    windows = f" in {split['features']:,} windows" if split["features"] > split["examples"] else ""
    return f"{plural(split['examples'], 'example')}{windows}, {plural(split['tokens'], 'token')}"


def _labels_line(labels: list[str]) -> str:
    named = ", ".join(labels[:_MOST_LABELS])
    return f"{len(labels)}: {named}" + (
        f", … ({len(labels) - _MOST_LABELS} more)" if len(labels) > _MOST_LABELS else ""
    )


def _steps_line(plan: Mapping[str, Any]) -> str:
    line = f"{plan['steps']:,} ({short(round(plan['epochs'], 2))} epochs of {plural(plan['steps_per_epoch'], 'step')})"
    return line + (f", going on from step {plan['from_step']:,}" if plan.get("from_step") else "")

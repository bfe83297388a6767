"""Rules over `launch` that need no model: numbers that do not fit each other, and settings without effect."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from chainft.config.launch import ONE_STAGE, LaunchConfig, launched_size
from chainft.config.no_effect import no_effect
from chainft.config.run import RunConfig
from chainft.errors import ConfigError, Problem


def processes_fit_machines(config: RunConfig) -> Iterator[Problem]:
    launch = config.launch
    count = launch.num_processes
    if isinstance(count, int) and count % launch.num_machines:
        yield Problem(
            "contradiction",
            f"launch.num_processes = {count} cannot be divided among launch.num_machines = {launch.num_machines}",
            key="launch.num_processes",
            help="it counts the processes of all machines together",
        )
    if launch.machine_rank >= launch.num_machines:
        yield Problem(
            "contradiction",
            f"launch.machine_rank = {launch.machine_rank} is not below launch.num_machines = {launch.num_machines}",
            key="launch.machine_rank",
            help="machines are numbered from 0",
        )
    if launch.num_machines > 1 and launch.main_process_ip is None:
        yield Problem(
            "missing-key",
            f"launch.num_machines = {launch.num_machines} needs the address of the main machine",
            key="launch.main_process_ip",
            help="give launch.main_process_ip, the same on every machine",
        )


_OF_OUR_LAUNCHER = ("num_machines", "machine_rank", "main_process_ip", "main_process_port", "max_restarts")
_OF_ACCELERATE = (
    ("MIXED_PRECISION", "train.mixed_precision", "no"),
    ("GRADIENT_ACCUMULATION_STEPS", "train.micro_batch_size", "1"),
    ("DYNAMO_BACKEND", "train.compile", "no"),
)
"""What `accelerate launch` puts into the environment, the setting that does it here, and its value without effect."""


def _value_of(config: RunConfig, key: str) -> object:
    return config.train.mixed_precision if key == "train.mixed_precision" else None


def the_launcher_is_followed(config: RunConfig) -> Iterator[Problem]:
    """Who started the processes knows how many there are."""
    launch, size = config.launch, launched_size()
    if size is None:
        return
    if launch.num_processes not in (1, "auto", size):
        yield Problem(
            "contradiction",
            f"launch.num_processes = {launch.num_processes}, but {size} processes were started (WORLD_SIZE)",
            key="launch.num_processes",
            help="leave it away under torchrun and accelerate launch",
        )
    for name in _OF_OUR_LAUNCHER:
        value = getattr(launch, name)
        if value != getattr(LaunchConfig, name):
            yield no_effect(
                f"launch.{name}", value, "another launcher started the processes (RANK is set)", "tell that launcher"
            )
    for name, key, plain in _OF_ACCELERATE:
        asked = os.environ.get(f"ACCELERATE_{name}", plain).lower()
        if asked not in (plain, str(_value_of(config, key)).lower()):
            yield Problem(
                "contradiction",
                f"accelerate launch asks for ACCELERATE_{name} = {asked}, which has no effect here",
                key=key,
                help=f"set {key} instead, and leave it away there",
            )
    for name in ("USE_FSDP", "USE_DEEPSPEED", "USE_MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_{name}", "false").lower() in ("true", "1"):
            yield Problem(
                "contradiction",
                f"accelerate launch asks for {name} (ACCELERATE_{name}), which chainft does itself",
                key="launch.fsdp",
                help="start the processes without it, and shard by launch.fsdp=true",
            )


def _count(launch: LaunchConfig) -> int | str:
    return launched_size() or launch.num_processes


def processes_fit_pipeline(config: RunConfig) -> Iterator[Problem]:
    launch = config.launch
    count = _count(launch)
    if isinstance(count, int) and count > 1 and count % launch.pipeline:
        yield Problem(
            "contradiction",
            f"launch.num_processes = {count} is no multiple of launch.pipeline = {launch.pipeline}",
            key="launch.pipeline",
            help="num_processes / pipeline copies of the pipeline share each batch",
        )
    if count == 1 and launch.is_pipeline:
        yield Problem(
            "contradiction",
            f"launch.pipeline = {launch.pipeline} needs as many processes",
            key="launch.num_processes",
            help=f"give launch.num_processes={launch.pipeline}, or a multiple",
        )


_ALONE = ("main_process_port", "timeout_s", "max_restarts", "fsdp")


def settings_have_several_processes(config: RunConfig) -> Iterator[Problem]:
    launch = config.launch
    for name in _ALONE:
        value = getattr(launch, name)
        if _count(launch) == 1 and launch.num_machines == 1 and value != getattr(LaunchConfig, name):
            yield no_effect(f"launch.{name}", value, "launch.num_processes = 1", "set launch.num_processes as well")


def settings_belong_to_their_kind(config: RunConfig) -> Iterator[Problem]:
    launch = config.launch
    for name in ("cpu_offload", "reshard_after_forward"):
        value = getattr(launch, name)
        if not launch.fsdp and value != getattr(LaunchConfig, name):
            yield no_effect(f"launch.{name}", value, "nothing is sharded", "set launch.fsdp=true")
    for name in ("schedule", "stages_per_rank"):
        value = getattr(launch, name)
        if not launch.is_pipeline and value != getattr(LaunchConfig, name):
            yield no_effect(f"launch.{name}", value, "there is no pipeline", "set launch.pipeline as well")
    if not launch.offloads and launch.blocks_per_stage != LaunchConfig.blocks_per_stage:
        yield no_effect("launch.blocks_per_stage", launch.blocks_per_stage, "nothing streams", "set launch.offload")
    if launch.offload != "disk" and launch.offload_dir is not None:
        yield no_effect("launch.offload_dir", launch.offload_dir, "nothing rests on disk", "set launch.offload=disk")
    if launch.num_machines == 1 and launch.main_process_ip is not None:
        yield no_effect("launch.main_process_ip", launch.main_process_ip, "launch.num_machines = 1")


_ELEMENTWISE = ("adamw", "adam", "nadam", "radam", "adamax", "adagrad", "adadelta", "rmsprop", "rprop", "sgd", "lion")
"""Optimizers that treat each number of a parameter by itself, so that a slice is updated as it is in the whole."""


def what_is_sharded_can_be(config: RunConfig) -> Iterator[Problem]:
    if not config.launch.fsdp:
        return
    name = config.optimizer.name
    if name.strip().casefold() not in _ELEMENTWISE:
        yield _unsharded("optimizer.name", name, "it needs whole matrices", f"use one of {', '.join(_ELEMENTWISE)}")
    if config.train.mixed_precision == "fp16":
        yield _unsharded("train.mixed_precision", "fp16", "its loss scaling knows no slices", "use bf16")
    for stage, settings in config.chain.stages.items():
        if settings.unfreeze_at is not None:
            key = f"chain.stages.{stage}.unfreeze_at"
            because = "FSDP2 fixes what is trained when it cuts the parameters"
            yield _unsharded(key, settings.unfreeze_at, because, "train the stage from the start, or keep it frozen")


def what_is_placed_can_be(config: RunConfig) -> Iterator[Problem]:
    launch = config.launch
    if not launch.is_pipeline:
        return
    if launch.fsdp and _count(launch) == launch.pipeline:
        because = f"each of the {launch.pipeline} places has one process, with which nothing is shared"
        yield no_effect("launch.fsdp", True, because, "take a multiple of launch.pipeline as launch.num_processes")
    count, one = launch.stages_of_place, launch.schedule in ONE_STAGE
    if (one and count > 1) or (launch.schedule == "zbv" and count != 2):
        takes = "one stage" if one else "two stages"
        message = f"launch.stages_per_rank = {count}, but the schedule {launch.schedule!r} takes {takes} a rank"
        yield Problem("contradiction", message, key="launch.stages_per_rank", help="leave it away")
    if launch.fsdp and not one:
        because = "slices of stages that share a rank are not gathered apart"
        yield _unplaced("launch.fsdp", True, because, "take launch.schedule=1f1b or gpipe, or leave launch.fsdp away")
    if config.train.mixed_precision == "fp16":
        yield _unplaced(
            "train.mixed_precision", "fp16", "its loss scaling would have to agree on all stages", "use bf16"
        )
    if config.chain.is_linked:
        because = "linked models hand on states of all stages before"
        yield _unplaced("chain.stages", "linked models", because, "share the batch by launch.num_processes alone")
    if config.cache.prefix is True:
        because = "what is kept would have to enter in the midst of a stage"
        yield _unplaced("cache.prefix", True, because, "leave it away: a frozen first stage gets no gradients")


def what_is_offloaded_can_be(config: RunConfig) -> Iterator[Problem]:
    launch = config.launch
    if not launch.offloads:
        return
    if _count(launch) != 1 or launch.num_machines > 1:
        because = "it is for one process on one device"
        help = "leave it away: launch.fsdp=true or launch.pipeline divide a model among processes"
        yield _whole("launch.num_processes", _count(launch), because, help)
    if launch.offload == "cpu" and config.train.device in ("cpu", "mps"):
        because = "there is no other memory than the one that it computes in"
        yield _whole("train.device", config.train.device, because, "take launch.offload=disk")
    if config.train.mixed_precision == "fp16":
        yield _whole("train.mixed_precision", "fp16", "gradients rest before its loss scaling sees them", "use bf16")
    if config.chain.is_linked:
        because = "linked models hand on states of all stages before"
        yield _whole("chain.stages", "linked models", because, "train them without launch.offload")


def _whole(key: str, value: object, because: str, help: str) -> Problem:
    message = f"{key} = {value!r} does not go with launch.offload: {because}"
    return Problem("contradiction", message, key=key, help=help)


def _unplaced(key: str, value: object, because: str, help: str) -> Problem:
    message = f"{key} = {value!r} does not go with launch.pipeline: {because}"
    return Problem("contradiction", message, key=key, help=help)


def check_heads(config: RunConfig, heads: Collection[str]) -> None:
    """Raise ConfigError for a task with several heads on a model that is divided; `heads`: their names, if any."""
    if heads and config.launch.divides:
        key = "launch.pipeline" if config.launch.is_pipeline else "launch.fsdp"
        because = "a batch may have no rows for one of them, whose gradients the others would wait for"
        if config.launch.offloads:
            key, because = "launch.offload", "they have no stages of their own"
        raise ConfigError(
            f"task {config.task.name!r} has several heads ({', '.join(heads)}), which does not go with {key}: {because}",
            slug="contradiction",
            key=key,
            help="train it with launch.num_processes alone: the processes share each batch",
        )


def _unsharded(key: str, value: object, because: str, help: str) -> Problem:
    message = f"{key} = {value!r} does not go with launch.fsdp = true: {because}"
    return Problem("contradiction", message, key=key, help=help)


LAUNCH_RULES = (
    processes_fit_machines,
    the_launcher_is_followed,
    processes_fit_pipeline,
    settings_have_several_processes,
    settings_belong_to_their_kind,
    what_is_sharded_can_be,
    what_is_placed_can_be,
    what_is_offloaded_can_be,
)

"""How the model of a run is divided: sharded over copies, cut into stages of several ranks, or streamed through one device."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from chainft.config.run import RunConfig
from chainft.errors import CheckpointError, ConfigError
from chainft.run_folder import write_json
from chainft.stages.spans import Span
from chainft.train.cuts import MEASURED_ROWS
from chainft.train.offload import Offload
from chainft.train.offload_stages import make_offload
from chainft.train.placing import Placed, pipeline_spans
from chainft.train.prepare import Prepared
from chainft.train.sharding import Sharding
from chainft.world import World

FILE = "pipeline.json"

Division = Sharding | Placed | Offload


def divide(
    config: RunConfig,
    prepared: Prepared,
    accelerator: Accelerator,
    *,
    world: World,
    folder: Path,
    open_prefix: Callable[[], None],
) -> Division | None:
    """Divide the model as configured, which has the weights with which it goes on; None: each process has all of it.

    `folder` is that of the run. `open_prefix` opens the prefix cache, for which the model must be whole; it is called
    where the cache can be used. Raises ConfigError and ModelError for what a division cannot do.
    """
    launch, model = config.launch, prepared.loaded.model
    if not launch.divides:
        return None
    if launch.fsdp and not launch.is_pipeline:
        open_prefix()
        return Sharding(model, prepared.chain, world, launch)
    _check_writing(config, prepared)
    if launch.offloads:
        if accelerator.device.type == "cpu":  # A GPU would have to hold all frozen stages at once.
            open_prefix()
        return make_offload(config, prepared, accelerator, folder)
    spans = world.share(_kept_spans(config, prepared, folder) if world.is_main else None)
    return Placed(
        model,
        prepared.chain,
        prepared.task,
        [Span(**one) for one in spans],
        world=world,
        launch=launch,
        autocast=accelerator.autocast,
    )


def _check_writing(config: RunConfig, prepared: Prepared) -> None:
    model = prepared.loaded.model
    if model.config.is_encoder_decoder and not prepared.task.evaluates_by_forward:
        key = "launch.pipeline" if config.launch.is_pipeline else "launch.offload"
        raise ConfigError(
            f"task {config.task.name!r} on {type(model).__name__} does not go with {key}: to write texts, the encoder "
            "is called apart from its decoder",
            slug="unsupported-by-model",
            key=key,
            help="shard it by launch.fsdp=true, or take a decoder",
        )


def _kept_spans(config: RunConfig, prepared: Prepared, folder: Path) -> list[dict[str, Any]]:
    """The stages of the pipeline as plain data: measured once for a number of stages, so that a run that goes on has the
    same ones, and rounds as it did."""
    file = folder / FILE
    count = config.launch.pipeline * config.launch.stages_of_place
    if file.is_file():
        try:
            kept: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["stages"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{FILE} is damaged: {error}",
                slug="damaged",
                where=str(file),
                key="launch.pipeline",
                help="bring the file back as the run wrote it, or remove it: the stages are measured again",
            ) from error
        if len(kept) == count:
            return kept
    spans = [asdict(one) for one in _spans(config, prepared)]
    write_json(file, {"stages": spans})
    return spans


def _spans(config: RunConfig, prepared: Prepared) -> list[Span]:
    store = prepared.stores["train"]
    rows = list(range(min(MEASURED_ROWS, len(store))))
    batch = prepared.task.collate([store[row] for row in rows], rows)
    return pipeline_spans(config.launch, prepared.loaded.model, prepared.chain, prepared.task, batch)

"""From a config to everything a training needs, in the order in which errors are cheapest to find.

Settings against the machine, then data and labels, then tokenizer, then weights: see `prepare`.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from chainft.config.chain import ChainConfig
from chainft.config.joint import JointConfig
from chainft.config.launch_rules import check_heads
from chainft.config.run import CacheConfig, RunConfig
from chainft.data.card import data_card
from chainft.data.contract import check_contract
from chainft.data.example import Finding, Split
from chainft.data.load import Splits, load_splits
from chainft.data.sampling import joint_order, shares
from chainft.data.store import FeatureStore, open_store
from chainft.errors import ConfigError, DataError, Problem
from chainft.models.device import choose_device
from chainft.models.load_headed import load_with_head
from chainft.models.read import LoadedModel
from chainft.models.stage_models import stage_models
from chainft.models.weights import locate
from chainft.plan.early import check_fit
from chainft.registry import find
from chainft.run_folder import model_folder, saved_ties
from chainft.stages.chain import Chain, build_chain
from chainft.stages.links_load import architecture_of, build_linked, check_models, read_tokenizer
from chainft.stages.lora import check_peft
from chainft.stages.policy import check_unfreezing
from chainft.stages.trunk_load import build_joint, check_joint
from chainft.tasks.base import Task
from chainft.train.cuts import chain_cuts
from chainft.train.faults import fault_point
from chainft.train.learner import Course, Order
from chainft.train.optimizer import check_optimizer
from chainft.train.schedule import warmup_steps_of
from chainft.world import World

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Receives what is being done, how much is done, and how much there is."""


@dataclass(frozen=True)
class Prepared:
    """Data, task and model, ready to train."""

    task: Task
    splits: Splits
    stores: Mapping[Split, FeatureStore]
    findings: tuple[Finding, ...]
    card: Mapping[str, Any]
    """Content of `data_card.json`."""
    loaded: LoadedModel
    chain: Chain


def make_accelerator(config: RunConfig, folder: Path) -> Accelerator:
    """The device and arithmetic of the run. Raises ConfigError for what this machine cannot do."""
    device = choose_device(config.train.device)
    if config.train.mixed_precision == "fp16" and device.type != "cuda":
        raise ConfigError(
            "train.mixed_precision='fp16' needs a CUDA GPU",
            slug="unsupported-precision",
            key="train.mixed_precision",
            help="use train.mixed_precision=bf16 or no",
        )
    if config.train.mixed_precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ConfigError(
            f"train.mixed_precision='bf16' is not supported by {torch.cuda.get_device_name(device)}",
            slug="unsupported-precision",
            key="train.mixed_precision",
            help="use train.mixed_precision=fp16 or no",
        )
    _check_offload(config, device)
    _check_tracker(config)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=config.train.mixed_precision,
        log_with=None if config.tracker.name == "none" else config.tracker.name,
        project_dir=str(folder),
        step_scheduler_with_optimizer=False,
    )


def prepare(
    config: RunConfig,
    *,
    progress: Progress,
    poll: Callable[[], None],
    folder: Path | None = None,
    world: World | None = None,
) -> Prepared:
    """Read and check the data, tokenise it, and load the model; `folder`: that of the run.

    Of several processes the first of each machine tokenises, and the others read what it stored.
    """
    world = world or World()
    task = new_task(config)
    check_optimizer(config.optimizer, config.chain)
    _check_sources(config.chain)
    if task.tasks:
        check_joint(config.chain)
    check_heads(config, task.tasks)
    check_models(config)  # A wrong model name is found before the data is read.
    check_fit(config)
    splits = load_splits(config.data, task)
    total_steps = Course.of(config, len(splits.examples["train"])).total_steps
    warmup_steps_of(total_steps, config.scheduler)
    check_unfreezing(config.chain.stages, total_steps)
    poll()
    task.learn_labels(splits.examples, unseen=config.data.unseen_labels)
    with world.main_first("tokenise", poll):
        stores = tokenise(config, task, splits, progress=progress, poll=poll)
    findings = check_contract(splits, task, stores=stores)
    stop_on_errors(findings)
    card = data_card(splits, task, findings, stores)
    loaded = _load(config, task)
    if not config.launch.offloads:
        torch.nn.Module.to(loaded.model, choose_device(config.train.device))
    cuts = shared_cuts(config.chain, loaded.model, task, stores["train"], folder, world=world)
    chain = build_chain(loaded.model, config, cuts=cuts)
    _tell_of_random_stages(chain, loaded.new)
    _tell_of_lost_ties(config)
    return Prepared(task, splits, stores, tuple(findings), card, loaded, chain)


def shared_cuts(
    chain: ChainConfig,
    model: PreTrainedModel,
    task: Task,
    store: FeatureStore,
    folder: Path | None,
    *,
    world: World,
) -> list[int] | None:
    """`chain_cuts` as the main process finds them: measured times differ, and everyone needs the same stages."""
    cuts: list[int] | None = world.share(chain_cuts(chain, model, task, store, folder) if world.is_main else None)
    return cuts


def _load(config: RunConfig, task: Task) -> LoadedModel:
    if task.tasks:
        return build_joint(config.model, task, seed=config.seed)
    if config.chain.is_linked:
        return build_linked(config, task, seed=config.seed)
    return load_with_head(config.model, config.head, task, seed=config.seed)


def _tell_of_random_stages(chain: Chain, new: Collection[str]) -> None:
    for part in chain.parts:
        if part.config.frozen is not False and part.name not in chain.imported:
            names = [name for name, one in part.parameters.items() if name in new and not chain.trains(one)]
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                logger.warning(
                    "stage %s is frozen with random values: no weights bring %s%s", part.name, names[0], more
                )


def _tell_of_lost_ties(config: RunConfig) -> None:
    """A folder that chainft saved may hold copies of what was one parameter; its blocks say nothing of it."""
    if any(stage.share for stage in config.chain.stages.values()):
        return
    for model in {one.path: one for one in stage_models(config).values() if one.pretrained}.values():
        folder = locate(model).folder
        ties = saved_ties(folder) if folder else {}
        if ties:
            name, to = next(iter(ties.items()))
            logger.warning(
                "model.path = %s was saved with %d shared parameters (%s is %s), which are trained apart here: to keep "
                "them one, give the stage `share`",
                model.path,
                len(ties),
                name,
                to,
            )


def order_of(prepared: Prepared) -> Order | None:
    """The order of the examples of several tasks; None: that of one task."""
    task = prepared.task
    if not isinstance(task.config, JointConfig):
        return None
    train = prepared.splits.examples["train"]
    sizes = [sum(name in example.values for example in train) for name in task.tasks]
    drawn = dict(zip(task.tasks, shares(sizes, task.config), strict=True))
    if never := [name for name, count in drawn.items() if not count]:
        raise ConfigError(
            f"by task.temperature = {task.config.temperature} no example of task {never[0]!r} is ever drawn",
            slug="out-of-range",
            key="task.temperature",
            help="a temperature of 1 or more draws from every task",
        )
    return partial(joint_order, sizes, task.config)


def new_task(config: RunConfig) -> Task:
    """The task plug-in of a config."""
    task: Task = find("task", config.task.name, key="task.name")(config.task)
    return task


def tokenise(
    config: RunConfig, task: Task, splits: Splits, *, progress: Progress, poll: Callable[[], None]
) -> dict[Split, FeatureStore]:
    """Give the task its tokenizer and open the tokenised store of each split that has examples."""
    fault_point("tokenise")
    poll()
    tokenizer, max_length = read_tokenizer(config, needs_offsets=task.needs_offsets)
    task.adapt(architecture_of(config))
    task.prepare(tokenizer, max_length=max_length)
    cache = Path(config.data.cache_dir) if config.data.cache_dir else None

    def report(split: str) -> Callable[[int, int], None]:
        def tell(done: int, total: int) -> None:
            poll()
            progress(f"tokenise {split}", done, total)

        return tell

    return {
        name: open_store(
            examples, task, cache_dir=cache, split=name, progress=report(name), num_workers=torch.get_num_threads()
        )
        for name, examples in splits.examples.items()
        if len(examples)
    }


def stop_on_errors(findings: list[Finding]) -> None:
    """Raise DataError that holds every finding of severity error."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise DataError.of(Problem(one.slug, one.message, one.where, None, one.help) for one in errors)


def _check_sources(chain: ChainConfig) -> None:
    """What stages need beside the model: earlier runs, and PEFT."""
    for name, stage in chain.stages.items():
        if stage.from_ is not None:
            model_folder(Path(stage.from_))
        if stage.lora is not None:
            check_peft(f"chain.stages.{name}.lora")


def _check_offload(config: RunConfig, device: torch.device) -> None:
    offload = config.launch.offload
    if offload == "cpu" and device.type != "cuda":
        raise ConfigError(
            f"launch.offload='cpu' has no effect: the run computes on {device.type}, whose memory is the CPU's",
            slug="no-effect",
            key="launch.offload",
            help="take launch.offload=disk",
        )
    if offload == "disk" and device.type == "mps":
        raise ConfigError(
            "launch.offload='disk' is for the CPU and CUDA GPUs, and the run computes on mps",
            slug="unsupported-device",
            key="launch.offload",
            help="set train.device=cpu",
        )
    if offload != "none" and device.type == "cuda" and config.cache != CacheConfig(prefix=config.cache.prefix):
        raise ConfigError(
            "cache.dtype and cache.max_gib have no effect: with launch.offload on a GPU no outputs are kept",
            slug="no-effect",
            key="cache",
            help="leave them away",
        )
    if offload != "none" and device.type == "cuda" and config.cache.prefix is True:
        raise ConfigError(
            "cache.prefix = True does not go with launch.offload on a GPU, which would have to hold all frozen stages",
            slug="contradiction",
            key="cache.prefix",
            help="leave it away, or compute on the CPU (train.device=cpu, launch.offload=disk)",
        )


def _check_tracker(config: RunConfig) -> None:
    packages = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
    name = config.tracker.name
    if name != "none" and importlib.util.find_spec(packages[name]) is None:
        raise ConfigError(
            f"tracker {name!r} is not installed",
            slug="tracker-not-installed",
            key="tracker.name",
            help="pip install 'chainft[track]'",
        )

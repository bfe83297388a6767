"""What the Trainer baseline can mirror: everything else is refused by name, so that only like is compared with like.

Light: a config is refused before torch is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from chainft.config.chain import ChainConfig, StageConfig
from chainft.config.run import RunConfig
from chainft.config.stage_rules import stage_names
from chainft.errors import ConfigError, Problem
from chainft.models.weights import locate
from chainft.train.schedule import warmup_steps_of

METRICS: Mapping[str, str] = {"ner": "entity_f1", "classify": "f1_macro"}
"""Task -> the score that both tools are given by; these tasks are compared."""
SCHEDULES: Mapping[str, str] = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "inverse_sqrt": "inverse_sqrt",
}
"""`scheduler.name` -> `lr_scheduler_type` of the same curve."""
ONLY: Mapping[str, Any] = {
    "task.multi_label": False,
    "task.regression": False,
    "task.temperature": None,
    "task.reject": None,
    "task.class_weights": None,
    "task.label_smoothing": 0.0,
    "task.decoding": None,
    "task.crf": False,
    "task.context": "sentence",
    "model.pretrained": True,
    "model.head": "auto",
    "head.name": None,
    "optimizer.name": "adamw",
    "scheduler.min_lr_fraction": None,
    "train.micro_batch_size": None,
    "train.micro_batch_tokens": None,
    "evaluation.every": "epoch",
    "evaluation.greater_is_better": None,
    "checkpoint.every": "evaluation",
    "chain.exit_confidence": None,
    "cache.dtype": "float32",
    "launch.num_processes": 1,
    "launch.num_machines": 1,
    "tracker.name": "none",
    "run": None,
    "resume": False,
}
"""Key -> its one value that the baseline mirrors."""
_ADAMW_OPTIONS = ("betas", "eps")
_STAGE_SETTINGS = ("blocks", "frozen", "eval_mode")


def check_mirrored(config: RunConfig, steps: int) -> None:
    """Raise ConfigError with everything that the baseline cannot mirror."""
    if config.task.name not in METRICS:
        raise ConfigError(
            f"task={config.task.name} has no baseline to compare with; there is one for: {', '.join(METRICS)}",
            slug="not-mirrored",
            key="task",
            help="choose task=ner, or task=classify with one text and one label a row",
        )
    problems = [*_settings(config), *_optimizer(config), *_data_and_model(config), *_stages(config.chain)]
    if problems:
        raise ConfigError.of(problems)
    warmup_steps_of(steps, config.scheduler)


def _settings(config: RunConfig) -> Iterator[Problem]:
    if config.train.mixed_precision == "fp16":
        yield _problem("train.mixed_precision", "fp16", "set train.mixed_precision=bf16 or no")
    for key, only in ONLY.items():
        value = _value(config, key, only)
        if value != only and not (key == "optimizer.name" and str(value).casefold() == only):
            yield _problem(key, value, f"set {key}={_word(only)}")
    if config.scheduler.name not in SCHEDULES:
        yield _problem("scheduler.name", config.scheduler.name, f"choose one of {', '.join(SCHEDULES)}")
    metric = METRICS[config.task.name]
    if config.evaluation.metric not in (None, metric):
        yield _problem("evaluation.metric", config.evaluation.metric, f"set evaluation.metric={metric}")


def _optimizer(config: RunConfig) -> Iterator[Problem]:
    for name, value in config.optimizer.options.items():
        if name not in _ADAMW_OPTIONS:
            yield _problem(f"optimizer.options.{name}", value, f"mirrored are {' and '.join(_ADAMW_OPTIONS)}")


def _data_and_model(config: RunConfig) -> Iterator[Problem]:
    if "text_pair" in config.data.columns:
        yield _problem("data.columns.text_pair", config.data.columns["text_pair"], "compared are single texts")
    if locate(config.model).gguf_file:
        yield _problem("model.path", config.model.path, "take a model with safetensors weights")


def _stages(chain: ChainConfig) -> Iterator[Problem]:
    """Stages may be wholly frozen, from the first one on; nothing else may change in them."""
    plain = StageConfig()
    help = "mirrored are stages that are wholly frozen, from the first one on"
    trains = False
    for name in stage_names(chain):
        stage = chain.stages.get(name, plain)
        for field in fields(StageConfig):
            value = getattr(stage, field.name)
            if field.name not in _STAGE_SETTINGS and value != getattr(plain, field.name):
                yield _problem(f"chain.stages.{name}.{field.name.rstrip('_')}", _short(value), help)
        if isinstance(stage.frozen, str) or (stage.frozen and trains):
            yield _problem(f"chain.stages.{name}.frozen", stage.frozen, help)
        trains = trains or stage.frozen is not True
    if chain.split == "auto" and any(stage.frozen for stage in chain.stages.values()):
        yield _problem("chain.split", "auto", "give the number of stages outright: chain.split=3")


def _value(config: RunConfig, key: str, default: Any) -> Any:
    *parents, leaf = key.split(".")
    node: Any = config
    for parent in parents:
        node = getattr(node, parent)
    return getattr(node, leaf, default)


def _problem(key: str, value: Any, help: str) -> Problem:
    message = f"{key}={_word(value)} cannot be mirrored by the Trainer baseline: the two would not do the same"
    return Problem("not-mirrored", message, key=key, help=help)


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _short(value: Any) -> Any:
    return "{...}" if hasattr(value, "__dataclass_fields__") else value

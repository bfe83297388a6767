"""Rules over several settings: contradictions, and settings that have no effect beside others.

Each rule is one small generator of problems; "set" means different from its default. A setting that would
be ignored is refused, so that nobody believes in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from chainft.config import kinds
from chainft.config.cache_rules import CACHE_RULES
from chainft.config.head_rules import HEAD_RULES
from chainft.config.joint import JointConfig, JointDataConfig, data_parts
from chainft.config.kind_rules import KIND_RULES
from chainft.config.launch_rules import LAUNCH_RULES
from chainft.config.link_rules import LINK_RULES
from chainft.config.no_effect import no_effect
from chainft.config.parse import parse
from chainft.config.run import DataConfig, RunConfig, SchedulerConfig
from chainft.config.stage_rules import STAGE_RULES
from chainft.errors import ConfigError, Problem

Rule = Callable[[RunConfig], Iterator[Problem]]


def parse_run(data: Mapping[str, Any]) -> RunConfig:
    """Parse a run's plain data and hold it against all rules. Raises ConfigError with every violation."""
    problems: list[Problem] = []
    config: RunConfig | None
    try:
        config = parse(RunConfig, data)
    except ConfigError as error:
        config, problems = _salvaged(data, error), _relevant(list(error.problems))
    bad = {problem.key for problem in problems}
    found = [problem for rule in RULES for problem in rule(config)] if config else []
    problems += [problem for problem in found if problem.key not in bad]
    if data.get("resume") is True and data.get("run") is None:
        problems = [_UNNAMED_RUN, *(problem for problem in problems if problem.slug != "missing-key")]
    if problems or config is None:
        raise ConfigError.of(problems)
    return config


_UNNAMED_RUN = Problem("contradiction", "resume = true, but no run is named", key="resume", help="add run=FOLDER")
"""Told first, and beside it not what is missing: that is in the run's config."""


def _relevant(problems: list[Problem]) -> list[Problem]:
    """Without a task no data was chosen either: only the task is worth a line."""
    keys = {problem.key for problem in problems}
    return [p for p in problems if not (p.key in ("data", "data.name") and keys & {"task", "task.name"})]


def _salvaged(data: Mapping[str, Any], error: ConfigError) -> RunConfig | None:
    """The run with the wrong values at their defaults, so that the rules can look at the others."""
    bad = {problem.key.partition("[")[0] for problem in error.problems if problem.key}
    kept = _without(data, "", bad)
    try:
        return parse(RunConfig, kept)
    except ConfigError:
        return None


def _without(data: Mapping[str, Any], at: str, bad: set[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{at}.{key}" if at else str(key)
        if path not in bad:
            inner = _without(value, path, bad) if isinstance(value, Mapping) else value
            if inner != {} or value == {}:
                kept[key] = inner
    return kept


def _is_set(section: Any, name: str) -> bool:
    """Whether a setting differs from its default."""
    default = next(info.default for info in kinds.fields_of(section.__class__) if info.name == name)
    return bool(getattr(section, name) != default)


# Scheduler and optimizer ----------------------------------------------------------------------------


def warmup_is_given_once(config: RunConfig) -> Iterator[Problem]:
    curve = config.scheduler
    if curve.warmup_steps is not None and curve.warmup_fraction is not None:
        yield Problem(
            "contradiction",
            f"scheduler.warmup_steps = {curve.warmup_steps} and scheduler.warmup_fraction = "
            f"{curve.warmup_fraction} are both given",
            key="scheduler.warmup_fraction",
            help="give one of them",
        )


_CURVES: Mapping[str, tuple[str, ...]] = {
    "power": ("polynomial",),
    "decay_fraction": ("warmup_stable_decay",),
    "min_lr_fraction": ("linear", "cosine", "polynomial", "warmup_stable_decay"),
}


def curve_has_the_setting(config: RunConfig) -> Iterator[Problem]:
    for name, curves in _CURVES.items():
        if _is_set(config.scheduler, name) and config.scheduler.name not in curves:
            value = getattr(config.scheduler, name)
            because = f"the curve {config.scheduler.name!r} does not use it"
            yield no_effect(f"scheduler.{name}", value, because, f"it belongs to scheduler={'|'.join(curves)}")


def warmup_and_decay_fit(config: RunConfig) -> Iterator[Problem]:
    curve: SchedulerConfig = config.scheduler
    if curve.name == "warmup_stable_decay" and curve.decay_fraction is not None:
        warmup = curve.warmup_fraction or 0.0
        if warmup + curve.decay_fraction > 1:
            yield Problem(
                "contradiction",
                f"scheduler.warmup_fraction + scheduler.decay_fraction = {warmup + curve.decay_fraction:g} is above 1",
                key="scheduler.decay_fraction",
            )


def warmup_ends_before_training(config: RunConfig) -> Iterator[Problem]:
    steps, warmup = config.train.max_steps, config.scheduler.warmup_steps
    if steps is not None and warmup is not None and warmup >= steps:
        yield Problem(
            "contradiction",
            f"scheduler.warmup_steps = {warmup} leaves none of the train.max_steps = {steps} steps at the full rate",
            key="scheduler.warmup_steps",
        )


# Training -------------------------------------------------------------------------------------------


def micro_batch_fits(config: RunConfig) -> Iterator[Problem]:
    micro, batch = config.train.micro_batch_size, config.train.batch_size
    if micro is not None and micro > batch:
        yield Problem(
            "contradiction",
            f"train.micro_batch_size = {micro} is above train.batch_size = {batch}",
            key="train.micro_batch_size",
            help="the batch is the whole of one optimizer update; a micro-batch is a part of it",
        )


def fp16_needs_an_accelerator(config: RunConfig) -> Iterator[Problem]:
    if config.train.mixed_precision == "fp16" and config.train.device == "cpu":
        yield Problem(
            "contradiction",
            "train.mixed_precision = 'fp16' does not train on train.device = 'cpu'",
            key="train.mixed_precision",
            help="choose bf16 or no",
        )


def hidden_states_are_rounded_with_bf16(config: RunConfig) -> Iterator[Problem]:
    train = config.train
    if train.hidden_dtype != "float32" and train.mixed_precision != "bf16":
        because = f"train.mixed_precision = {train.mixed_precision!r}"
        yield no_effect("train.hidden_dtype", train.hidden_dtype, because, "set train.mixed_precision=bf16")
        return
    if train.hidden_dtype != "float32":
        if config.launch.divides or config.chain.is_linked:
            what = "linked models" if config.chain.is_linked else "a model that is divided"
            yield Problem(
                "contradiction",
                f"train.hidden_dtype = {train.hidden_dtype!r} does not go with {what}: stages hand on hidden states in "
                "float32",
                key="train.hidden_dtype",
                help="leave it away",
            )
        for name, stage in config.chain.stages.items():
            if stage.dtype is not None:
                yield Problem(
                    "contradiction",
                    f"chain.stages.{name}.dtype = {stage.dtype!r} and train.hidden_dtype = {train.hidden_dtype!r} both "
                    "say in which type hidden states are",
                    key="train.hidden_dtype",
                    help="leave one of them away",
                )


def what_is_compiled_can_be(config: RunConfig) -> Iterator[Problem]:
    train = config.train
    if train.compile is not True:
        return
    others = {
        "a model that is divided": config.launch.divides,
        "linked models": config.chain.is_linked,
        "train.device = 'mps'": train.device == "mps",
        "train.padding_free = true on a CPU, whose attention is not compiled": train.device == "cpu"
        and train.padding_free is True,
    }
    for what, there in others.items():
        if there:
            message = f"train.compile = true does not go with {what}"
            yield Problem("contradiction", message, key="train.compile", help="leave it away")


def what_is_recorded_can_be(config: RunConfig) -> Iterator[Problem]:
    train = config.train
    if train.cuda_graphs is not True:
        return
    others = {
        "a model that is divided": config.launch.divides,
        "linked models": config.chain.is_linked,
        f"train.device = {train.device!r}": train.device in ("cpu", "mps"),
        "train.mixed_precision = 'no': it is for batches without padding, which a GPU has in 16 bits": (
            train.mixed_precision == "no"
        ),
        "train.padding_free = false: it is for batches without padding": train.padding_free is False,
        "train.gradient_checkpointing = true, whose batches are padded": train.gradient_checkpointing,
        "gradient_checkpointing of a stage, whose batches are padded": any(
            stage.gradient_checkpointing for stage in config.chain.stages.values()
        ),
        f"launch.num_processes = {config.launch.num_processes}: it is for one process": (
            isinstance(config.launch.num_processes, int) and config.launch.num_processes > 1
        ),
    }
    for what, there in others.items():
        if there:
            message = f"train.cuda_graphs = true does not go with {what}"
            help_ = "set train.mixed_precision=bf16" if "mixed_precision" in what else "leave it away"
            yield Problem("contradiction", message, key="train.cuda_graphs", help=help_)


# Evaluation -----------------------------------------------------------------------------------------


def has_validation(data: DataConfig) -> bool:
    """Whether there will be validation examples."""
    return any(bool(one.validation) or one.validation_fraction > 0 for one in data_parts(data).values())


def early_stopping_has_what_it_needs(config: RunConfig) -> Iterator[Problem]:
    evaluation = config.evaluation
    if evaluation.patience is not None and not has_validation(config.data):
        yield no_effect(
            "evaluation.patience",
            evaluation.patience,
            "there are no validation examples",
            "give data.validation or data.validation_fraction",
        )
    if _is_set(evaluation, "min_delta") and evaluation.patience is None:
        yield no_effect(
            "evaluation.min_delta", evaluation.min_delta, "early stopping is off", "set evaluation.patience as well"
        )


def metric_settings_have_a_metric(config: RunConfig) -> Iterator[Problem]:
    evaluation = config.evaluation
    if evaluation.greater_is_better is not None and evaluation.metric is None:
        because = "the task's own metric is used, whose direction is known"
        yield no_effect("evaluation.greater_is_better", evaluation.greater_is_better, because, "set evaluation.metric")
    if evaluation.metric is not None and not has_validation(config.data):
        yield no_effect("evaluation.metric", evaluation.metric, "there are no validation examples")


def saving_at_evaluations_has_evaluations(config: RunConfig) -> Iterator[Problem]:
    if _is_set(config.evaluation, "every") and not has_validation(config.data):
        yield no_effect("evaluation.every", config.evaluation.every, "there are no validation examples")


# Data -----------------------------------------------------------------------------------------------


def _of_each_data(rule: Callable[[str, DataConfig], Iterator[Problem]]) -> Rule:
    """A rule over one set of data, by its dotted key, as a rule over those of all tasks."""

    def each(config: RunConfig) -> Iterator[Problem]:
        for key, data in data_parts(config.data).items():
            yield from rule(key, data)

    return each


def cuts_leave_training_data(key: str, data: DataConfig) -> Iterator[Problem]:
    cut = (0 if data.validation else data.validation_fraction) + (0 if data.test else data.test_fraction)
    if cut >= 1:
        yield Problem(
            "contradiction",
            f"{key}.validation_fraction + {key}.test_fraction = {cut:g} leaves nothing to train on",
            key=f"{key}.validation_fraction",
        )


def cuts_are_made(key: str, data: DataConfig) -> Iterator[Problem]:
    for split in ("validation", "test"):
        name = f"{split}_fraction"
        if getattr(data, split) and _is_set(data, name):
            yield no_effect(f"{key}.{name}", getattr(data, name), f"{key}.{split} gives the examples")


def bad_rows_are_skipped(key: str, data: DataConfig) -> Iterator[Problem]:
    if data.on_error == "stop" and _is_set(data, "max_bad_fraction"):
        because = f"the first malformed row stops the run ({key}.on_error = 'stop')"
        yield no_effect(f"{key}.max_bad_fraction", data.max_bad_fraction, because, f"set {key}.on_error=skip")


def sample_limits_have_their_split(key: str, data: DataConfig) -> Iterator[Problem]:
    if data.max_validation_samples is not None and not has_validation(data):
        because = "there are no validation examples"
        yield no_effect(f"{key}.max_validation_samples", data.max_validation_samples, because)
    if data.max_test_samples is not None and not data.test and data.test_fraction == 0:
        yield no_effect(f"{key}.max_test_samples", data.max_test_samples, "there are no test examples")


def settings_of_several_data_stand_in_each(config: RunConfig) -> Iterator[Problem]:
    data = config.data
    if not isinstance(data, JointDataConfig):
        return
    for info in kinds.fields_of(JointDataConfig):
        if info.name not in ("name", "tasks", *_FOR_ALL_DATA) and _is_set(data, info.attribute):
            help = f"data.tasks.NAME.{info.name}=..."
            because = "each task has data of its own"
            yield no_effect(f"data.{info.name}", kinds.dump(getattr(data, info.attribute)), because, help)
    for key, one in data_parts(data).items():
        for name in _FOR_ALL_DATA:
            if _is_set(one, name):
                yield no_effect(f"{key}.{name}", getattr(one, name), "it is one for all tasks", f"data.{name}=...")


_FOR_ALL_DATA = ("unseen_labels", "cache_dir")


def temperature_is_used(config: RunConfig) -> Iterator[Problem]:
    task = config.task
    if isinstance(task, JointConfig) and task.temperature is not None and task.sampling != "temperature":
        because = f"task.sampling = {task.sampling!r} has none"
        yield no_effect("task.temperature", task.temperature, because, "set task.sampling=temperature")


# Run, tracker, report ----------------------------------------------------------------------------------


def consent_is_for_a_resumed_run(config: RunConfig) -> Iterator[Problem]:
    if not config.resume:
        if config.allow_change:
            yield no_effect("allow_change", list(config.allow_change), "no run is resumed", "set resume=true")
        if config.allow_data_change:
            yield no_effect("allow_data_change", True, "no run is resumed", "set resume=true")


def run_folder_is_given_once(config: RunConfig) -> Iterator[Problem]:
    if config.run is not None and _is_set(config, "runs_dir"):
        yield no_effect("runs_dir", config.runs_dir, f"run = {config.run!r} is the folder")


def tracker_settings_have_a_tracker(config: RunConfig) -> Iterator[Problem]:
    if config.tracker.name == "none" and _is_set(config.tracker, "project"):
        yield no_effect("tracker.project", config.tracker.project, "no tracker is chosen", "choose one: tracker=wandb")


def report_settings_have_a_report(config: RunConfig) -> Iterator[Problem]:
    if not config.report.enabled and _is_set(config.report, "max_mistakes"):
        yield no_effect("report.max_mistakes", config.report.max_mistakes, "no report is written")


RULES: tuple[Rule, ...] = (
    warmup_is_given_once,
    curve_has_the_setting,
    warmup_and_decay_fit,
    warmup_ends_before_training,
    micro_batch_fits,
    fp16_needs_an_accelerator,
    hidden_states_are_rounded_with_bf16,
    what_is_compiled_can_be,
    what_is_recorded_can_be,
    early_stopping_has_what_it_needs,
    metric_settings_have_a_metric,
    saving_at_evaluations_has_evaluations,
    _of_each_data(cuts_leave_training_data),
    _of_each_data(cuts_are_made),
    _of_each_data(bad_rows_are_skipped),
    _of_each_data(sample_limits_have_their_split),
    settings_of_several_data_stand_in_each,
    temperature_is_used,
    consent_is_for_a_resumed_run,
    run_folder_is_given_once,
    tracker_settings_have_a_tracker,
    report_settings_have_a_report,
    *HEAD_RULES,
    *STAGE_RULES,
    *LINK_RULES,
    *KIND_RULES,
    *CACHE_RULES,
    *LAUNCH_RULES,
)

"""Contradictions, and settings that would be ignored, are refused; their right uses are not."""

from __future__ import annotations

import pytest

from chainft.config.launch_rules import LAUNCH_RULES
from chainft.config.link_rules import LINK_RULES
from chainft.config.rules import RULES, parse_run
from chainft.config.stage_rules import STAGE_RULES
from chainft.errors import ConfigError

BASE: dict[str, object] = {"task": {"name": "toy"}, "data": {"name": "toy"}}


def broken(**sections: object) -> dict[str | None, str]:
    data = {**BASE, **sections}
    try:
        parse_run(data)
    except ConfigError as error:
        return {problem.key: problem.message for problem in error.problems}
    return {}


GRAPHS = {"cuda_graphs": True, "mixed_precision": "bf16"}
WRONG = [
    ("scheduler.warmup_fraction", {"scheduler": {"warmup_steps": 5, "warmup_fraction": 0.1}}),
    ("scheduler.power", {"scheduler": {"name": "linear", "power": 3}}),
    ("scheduler.decay_fraction", {"scheduler": {"name": "cosine", "decay_fraction": 0.2}}),
    ("scheduler.min_lr_fraction", {"scheduler": {"name": "constant", "min_lr_fraction": 0.2}}),
    ("scheduler.min_lr_fraction", {"scheduler": {"name": "inverse_sqrt", "min_lr_fraction": 0.2}}),
    (
        "scheduler.decay_fraction",
        {"scheduler": {"name": "warmup_stable_decay", "warmup_fraction": 0.5, "decay_fraction": 0.6}},
    ),
    ("scheduler.warmup_steps", {"scheduler": {"warmup_steps": 10}, "train": {"max_steps": 10}}),
    ("train.micro_batch_size", {"train": {"batch_size": 8, "micro_batch_size": 9}}),
    ("train.mixed_precision", {"train": {"mixed_precision": "fp16", "device": "cpu"}}),
    ("train.hidden_dtype", {"train": {"hidden_dtype": "bfloat16"}}),
    (
        "train.hidden_dtype",
        {
            "train": {"hidden_dtype": "bfloat16", "mixed_precision": "bf16"},
            "chain": {"split": [6], "stages": {"a": {"dtype": "bfloat16"}}},
        },
    ),
    (
        "train.hidden_dtype",
        {
            "train": {"hidden_dtype": "bfloat16", "mixed_precision": "bf16"},
            "launch": {"num_processes": 2, "pipeline": 2},
        },
    ),
    ("train.compile", {"train": {"compile": True, "device": "mps"}}),
    ("train.compile", {"train": {"compile": True, "device": "cpu", "padding_free": True}}),
    ("train.compile", {"train": {"compile": True}, "launch": {"num_processes": 2, "pipeline": 2}}),
    ("train.cuda_graphs", {"train": {"cuda_graphs": True}}),
    ("train.cuda_graphs", {"train": {**GRAPHS, "device": "cpu"}}),
    ("train.cuda_graphs", {"train": {**GRAPHS, "padding_free": False}}),
    ("train.cuda_graphs", {"train": {**GRAPHS, "gradient_checkpointing": True}}),
    ("train.cuda_graphs", {"train": GRAPHS, "launch": {"num_processes": 2}}),
    ("train.cuda_graphs", {"train": GRAPHS, "launch": {"num_processes": 2, "pipeline": 2}}),
    ("evaluation.patience", {"evaluation": {"patience": 3}, "data": {"name": "toy", "validation_fraction": 0.0}}),
    ("evaluation.metric", {"evaluation": {"metric": "x"}, "data": {"name": "toy", "validation_fraction": 0.0}}),
    ("evaluation.every", {"evaluation": {"every": 5}, "data": {"name": "toy", "validation_fraction": 0.0}}),
    ("evaluation.min_delta", {"evaluation": {"min_delta": 0.1}}),
    ("evaluation.greater_is_better", {"evaluation": {"greater_is_better": True}}),
    ("data.validation_fraction", {"data": {"name": "toy", "validation_fraction": 0.5, "test_fraction": 0.5}}),
    ("data.validation_fraction", {"data": {"name": "toy", "validation": "v", "validation_fraction": 0.5}}),
    ("data.test_fraction", {"data": {"name": "toy", "test": "t", "test_fraction": 0.5}}),
    ("data.max_bad_fraction", {"data": {"name": "toy", "max_bad_fraction": 0.5}}),
    ("data.max_test_samples", {"data": {"name": "toy", "max_test_samples": 5}}),
    (
        "data.max_validation_samples",
        {"data": {"name": "toy", "max_validation_samples": 5, "validation_fraction": 0.0}},
    ),
    ("resume", {"resume": True}),
    ("allow_change", {"allow_change": ["optimizer.lr"]}),
    ("allow_data_change", {"allow_data_change": True}),
    ("runs_dir", {"run": "x", "runs_dir": "y"}),
    ("tracker.project", {"tracker": {"project": "mine"}}),
    ("report.max_mistakes", {"report": {"enabled": False, "max_mistakes": 5}}),
]


@pytest.mark.parametrize(("key", "sections"), WRONG, ids=[f"{key}-{n}" for n, (key, _) in enumerate(WRONG)])
def test_contradiction_or_setting_without_effect_is_refused(key: str, sections: dict[str, object]) -> None:
    """fault 5"""
    assert key in broken(**sections)


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"scheduler": {"name": "polynomial", "power": 3, "min_lr_fraction": 0.1}},
        {"scheduler": {"name": "warmup_stable_decay", "decay_fraction": 0.2, "warmup_fraction": 0.1}},
        {"scheduler": {"warmup_steps": 5}, "train": {"max_steps": 10}},
        {"train": {"batch_size": 8, "micro_batch_size": 8}},
        {"train": {"mixed_precision": "bf16", "device": "cpu"}},
        {"evaluation": {"patience": 3, "min_delta": 0.1, "metric": "x", "greater_is_better": False}},
        {"evaluation": {"patience": 3}, "data": {"name": "toy", "validation": "v"}},
        {"data": {"name": "toy", "on_error": "skip", "max_bad_fraction": 0.5}},
        {"data": {"name": "toy", "test": "t", "max_test_samples": 5}},
        {"data": {"name": "toy", "validation_fraction": 0.4, "test_fraction": 0.5, "stratified": False}},
        {"run": "x", "resume": True, "allow_change": ["seed"], "allow_data_change": True},
        {"tracker": {"name": "wandb", "project": "mine"}},
    ],
)
def test_settings_that_go_together_are_taken(sections: dict[str, object]) -> None:
    assert broken(**sections) == {}


def test_wrong_values_do_not_hide_contradictions_of_others() -> None:
    """fault 5"""
    found = broken(optimizer={"lr": -1}, train={"micro_batch_size": 64}, task={"name": "toy", "scheme": "x"})
    assert set(found) == {"optimizer.lr", "train.micro_batch_size", "task.scheme"}


def test_messages_carry_the_value_and_the_reason() -> None:
    message = broken(scheduler={"power": 3})["scheduler.power"]
    assert "3" in message and "'linear'" in message


def test_without_a_task_the_missing_data_is_not_complained_about() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_run({"seed": -1})
    assert {problem.key for problem in caught.value.problems} == {"task", "seed"}


def test_every_rule_is_tried_here() -> None:
    """Those over stages, links and processes are tried in their own files."""
    assert len(WRONG) >= len(RULES) - len(STAGE_RULES) - len(LINK_RULES) - len(LAUNCH_RULES)

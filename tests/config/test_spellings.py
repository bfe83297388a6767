"""Names of other tools, and keys in the wrong place, lead to ours."""

from __future__ import annotations

import pytest

from chainft.config import kinds
from chainft.config.run import RunConfig
from chainft.config.spellings import EXPLAINED, SPELLINGS, hint_for
from chainft.config.sweep_config import SweepConfig

DATA = {"task": {"name": "toy"}, "data": {"name": "toy"}}


def hint(path: str) -> str:
    return hint_for(path, RunConfig, DATA, "") or ""


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("learning_rate", "optimizer.lr"),
        ("launch.devices_per_job", "sweep.devices_per_job"),
        ("train.learning_rate", "optimizer.lr"),
        ("lr", "optimizer.lr"),
        ("train.lr", "optimizer.lr"),
        ("optimizer.lrr", "optimizer.lr"),
        ("optimiser.lr", "optimizer.lr"),
        ("optim.lrr", "optimizer.lr"),
        ("per_device_train_batch_size", "train.batch_size"),
        ("train_batch_size", "train.batch_size"),
        ("num_epochs", "train.num_train_epochs"),
        ("train.epochs", "train.num_train_epochs"),
        ("num_train_epochs", "train.num_train_epochs"),
        ("warmup_ratio", "scheduler.warmup_fraction"),
        ("warmup_steps", "scheduler.warmup_steps"),
        ("save_total_limit", "checkpoint.max_checkpoints"),
        ("eval_steps", "evaluation.every=STEPS"),
        ("evaluation_strategy", "evaluation.every"),
        ("early_stopping_patience", "evaluation.patience"),
        ("output_dir", "run"),
        ("model_name_or_path", "model.path"),
        ("lr_scheduler_type", "scheduler.name"),
        ("fp16", "train.mixed_precision=fp16"),
        ("max_seq_length", "model.max_length"),
        ("train_file", "data.train"),
        ("validation_file", "data.validation"),
        ("optimizer.momentum", "optimizer.options.momentum"),
        ("optimizer.betas", "optimizer.options.betas"),
        ("Learning-Rate", "optimizer.lr"),
        ("task.schema", "task.scheme"),
        ("data.seperator", "data.separator"),
        ("scheme", "task.scheme"),
    ],
)
def test_other_spelling_leads_to_ours(path: str, ours: str) -> None:
    """fault 1"""
    assert f"'{ours}'" in hint(path)


def test_batch_size_alone_names_both_places_that_have_one() -> None:
    assert hint("batch_size") == "did you mean 'train.batch_size' or 'evaluation.batch_size'?"


def test_gradient_accumulation_is_explained() -> None:
    assert "train.micro_batch_size" in hint("gradient_accumulation_steps")


def test_unknown_optimizer_argument_is_sent_to_its_options() -> None:
    assert "optimizer.options.rho" in hint("optimizer.rho")


def test_key_like_no_other_leads_to_the_list_of_settings() -> None:
    assert "chainft config show" in hint("zzzqqq")


def test_every_spelling_names_a_setting_that_exists() -> None:
    sweep = kinds.leaf_paths(SweepConfig, at="sweep")
    known = {
        *kinds.leaf_paths(RunConfig, DATA),
        *sweep,
        "task",
        "data",
        "tracker",
        "optimizer.options",
        "data.columns",
    }
    for name, ours in SPELLINGS.items():
        key = ours.partition(" ")[0].partition("=")[0]
        assert key in known or key.rpartition(".")[0] in known | {"data"}, (name, ours)


def test_no_spelling_is_one_of_our_own_keys() -> None:
    """Else the hint could never be shown, or would lead away from a right key."""
    own = {path.rpartition(".")[2] for path in kinds.leaf_paths(RunConfig, DATA)}
    assert not own & {*SPELLINGS, *EXPLAINED}

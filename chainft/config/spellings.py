"""What other tools call our settings, and the hint for a key that is none of ours."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from chainft.config import kinds

SPELLINGS: Mapping[str, str] = {
    # Hugging Face TrainingArguments and the example scripts run_ner.py, run_glue.py
    "learning_rate": "optimizer.lr",
    "optim": "optimizer.name",
    "adam_epsilon": "optimizer.options.eps",
    "eps": "optimizer.options.eps",
    "betas": "optimizer.options.betas",
    "momentum": "optimizer.options.momentum",
    "nesterov": "optimizer.options.nesterov",
    "amsgrad": "optimizer.options.amsgrad",
    "wd": "optimizer.weight_decay",
    "decay": "optimizer.weight_decay",
    "lr_scheduler": "scheduler.name",
    "lr_scheduler_type": "scheduler.name",
    "warmup": "scheduler.warmup_fraction",
    "warmup_ratio": "scheduler.warmup_fraction",
    "warmup_proportion": "scheduler.warmup_fraction",
    "num_warmup_steps": "scheduler.warmup_steps",
    "min_lr_ratio": "scheduler.min_lr_fraction",
    "num_epochs": "train.num_train_epochs",
    "num_train_epoch": "train.num_train_epochs",
    "max_epochs": "train.num_train_epochs",
    "n_epochs": "train.num_train_epochs",
    "epochs": "train.num_train_epochs",
    "epoch": "train.num_train_epochs",
    "steps": "train.max_steps",
    "max_train_steps": "train.max_steps",
    "total_steps": "train.max_steps",
    "train_batch_size": "train.batch_size",
    "total_batch_size": "train.batch_size",
    "bs": "train.batch_size",
    "bsz": "train.batch_size",
    "clip_grad_norm": "train.max_grad_norm",
    "gradient_clip_val": "train.max_grad_norm",
    "gradient_clipping": "train.max_grad_norm",
    "precision": "train.mixed_precision",
    "no_cuda": "train.device=cpu",
    "use_cpu": "train.device=cpu",
    "fp16": "train.mixed_precision=fp16",
    "bf16": "train.mixed_precision=bf16",
    "fp16_full_eval": "train.mixed_precision=fp16",
    "torch_compile": "train.compile=true",
    "per_device_eval_batch_size": "evaluation.batch_size",
    "eval_batch_size": "evaluation.batch_size",
    "validation_batch_size": "evaluation.batch_size",
    "eval_steps": "evaluation.every=STEPS",
    "eval_strategy": "evaluation.every",
    "evaluation_strategy": "evaluation.every",
    "metric_for_best_model": "evaluation.metric",
    "early_stopping": "evaluation.patience",
    "early_stopping_patience": "evaluation.patience",
    "early_stopping_threshold": "evaluation.min_delta",
    "save_steps": "checkpoint.every=STEPS",
    "save_strategy": "checkpoint.every",
    "save_total_limit": "checkpoint.max_checkpoints",
    "resume_from_checkpoint": "resume=true together with run=FOLDER",
    "output_dir": "run",
    "overwrite_output_dir": "run (choose a new folder; a run is never overwritten)",
    "run_name": "run",
    "log_dir": "run",
    "model_name_or_path": "model.path",
    "model_name": "model.path",
    "pretrained_model_name_or_path": "model.path",
    "checkpoint_path": "model.path",
    "model_revision": "model.revision",
    "tokenizer_name": "model.tokenizer",
    "tokenizer_name_or_path": "model.tokenizer",
    "max_seq_length": "model.max_length",
    "max_seq_len": "model.max_length",
    "max_source_length": "model.max_length",
    "cutoff_len": "model.max_length",
    "sequence_len": "model.max_length",
    "train_file": "data.train",
    "train_path": "data.train",
    "validation_file": "data.validation",
    "dev": "data.validation",
    "dev_file": "data.validation",
    "eval_file": "data.validation",
    "test_file": "data.test",
    "dataset_name": "data.path with data=hub",
    "dataset": "data",
    "text_column_name": "data.columns.text",
    "label_column_name": "data.columns.label",
    "max_eval_samples": "data.max_validation_samples",
    "max_predict_samples": "data.max_test_samples",
    "task_name": "task",
    "report_to": "tracker",
    "data_seed": "seed (data order follows it) or data.split_seed (the cut of the splits)",
    "random_seed": "seed",
    "devices_per_job": "sweep.devices_per_job of a sweep, chainft train -m",
    "gpus_per_job": "sweep.devices_per_job of a sweep, chainft train -m",
    "n_jobs": "sweep.num_parallel of a sweep, chainft train -m",
    "n_trials": "sweep.num_trials of a sweep, chainft train -m",
    "log_every": "train.logging_steps",
    "logging_first_step": "train.logging_steps",
}
"""Another tool's name (last part of the key, lower case) -> ours."""

EXPLAINED: Mapping[str, str] = {
    "gradient_accumulation_steps": "it follows from train.batch_size (the effective batch, over all devices) and "
    "train.micro_batch_size (what one forward pass takes)",
    "accumulate_grad_batches": "it follows from train.batch_size and train.micro_batch_size",
    "per_device_train_batch_size": "did you mean 'train.batch_size' (the effective batch, over all devices)? "
    "What one forward pass takes is 'train.micro_batch_size'",
    "logging_dir": "logs go into the run folder: set 'run' or 'runs_dir'",
    "load_best_model_at_end": "the best checkpoint always becomes the model; 'evaluation.metric' chooses it",
    "group_by_length": "batches are always grouped by length",
    "trust_remote_code": "chainft never runs code that comes with weights",
    "push_to_hub": "chainft does not upload; the folder model/ of a run can be pushed as it is",
    "do_train": "say it by the command: chainft train, chainft evaluate, chainft predict",
    "do_eval": "say it by the command: chainft train, chainft evaluate, chainft predict",
    "do_predict": "say it by the command: chainft train, chainft evaluate, chainft predict",
    "remove_unused_columns": "only the columns that the task needs are read",
}
"""Names of other tools for which there is no such setting, and why."""


def hint_for(path: str, root: Any, data: object, at: str) -> str | None:
    """What a person meant by the unknown key `path` of a config of class `root`, or None."""
    name = path.rpartition(".")[2].replace("-", "_").casefold()
    if name in EXPLAINED:
        return EXPLAINED[name]
    known = list(kinds.leaf_paths(root, data, at=at)) if kinds.config_class(root) else []
    same = [other for other in known if other.rpartition(".")[2] == name]
    if name in SPELLINGS and not same:
        return _did_you_mean(SPELLINGS[name])
    if same:
        return _did_you_mean(*same[:3])
    if near := _neighbour(path, known):
        return _did_you_mean(near)
    if path.startswith("optimizer."):
        return f"arguments of the optimizer itself go into its options: 'optimizer.options.{name}'"
    if near := _nearest(path, known):
        return _did_you_mean(near)
    group = path.partition(".")[0]
    return f"list the settings by 'chainft config show{f' {group}' if _has(known, group) else ''}'"


def _neighbour(path: str, known: list[str]) -> str | None:
    """The key of the same group that is most like `path`."""
    parent, _, name = path.rpartition(".")
    neighbours = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == parent}
    near = difflib.get_close_matches(name, neighbours, n=1, cutoff=0.6)
    return neighbours[near[0]] if near else None


def _nearest(path: str, known: list[str]) -> str | None:
    """The known key most like `path`: as a whole, then by last part."""
    last_parts = {key.rpartition(".")[2]: key for key in reversed(known)}
    whole = difflib.get_close_matches(path, known, n=1, cutoff=0.7)
    near = difflib.get_close_matches(path.rpartition(".")[2], last_parts, n=1, cutoff=0.75)
    return whole[0] if whole else last_parts[near[0]] if near else None


def _did_you_mean(*keys: str) -> str:
    first, _, rest = keys[0].partition(" ")
    if rest:
        return (
            f"did you mean '{first}' {rest.strip()}?"
            if not rest.startswith("(")
            else f"did you mean '{first}'? {rest}"
        )
    return f"did you mean {' or '.join(repr(key) for key in keys)}?"


def _has(known: list[str], group: str) -> bool:
    return any(key.startswith(f"{group}.") for key in known)

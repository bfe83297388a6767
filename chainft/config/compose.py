"""From the words of a command line to a checked `RunConfig`: groups, defaults, interpolations, parsing.

Hydra merges files and words (`hydra_edge`); this module decides what the words mean before, and fills in
and checks afterwards. Every `key=value` is passed so that Hydra takes it, whatever the key: unknown keys
reach `parse`, which knows what was meant. Defaults are those of the dataclasses; YAML holds what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from chainft import registry
from chainft.config import gate, kinds, rules
from chainft.config.document import read_yaml
from chainft.config.hydra_edge import Composer, Composition, composer, search_path_entries
from chainft.config.interpolation import frozen_times, resolve
from chainft.config.run import RunConfig
from chainft.config.search import PRIMARY, options, search_folders
from chainft.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

STARTER_MODEL = "starter"
_SOURCES: Mapping[str, str] = {
    ".conll": "conll", ".bio": "conll", ".iob": "conll", ".iob2": "conll", ".bioes": "conll",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
}  # fmt: skip
"""The source that reads a file when only the file is given, by its ending."""


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
    """With every default, interpolations as written; without the node `sweep`."""
    sweep: dict[str, Any]
    """The node `sweep`, as composed."""
    composition: Composition
    overrides: tuple[str, ...]
    where: Callable[[str], str | None]
    """Where a dotted key was set: a word or `file:line:column`."""


def compose(overrides: Sequence[str], *, config_dir: Path | None = None, config_name: str = PRIMARY) -> Composed:
    """Compose, check and parse. Raises ConfigError with every violation, SecurityError for what could run code."""
    draft = compose_draft(overrides, config_dir=config_dir, config_name=config_name)
    if sweeping := [word for word in draft.overrides if _key(word).split(".")[0] == "sweep"]:
        raise ConfigError(
            f"{sweeping[0]} has no effect on a single run",
            slug="no-effect",
            where=sweeping[0],
            key="sweep",
            help="sweep over several runs by: chainft train -m ...",
        )
    return finish(draft)


def word_values(words: Sequence[str]) -> dict[str, object]:
    """Key -> value of plain `key=value` words, read in Hydra's grammar. Raises ConfigError."""
    for word in words:
        _check_word(word)
    with composer(search_folders(), PRIMARY) as hydra:
        return {override.key_or_group: override.value() for override in hydra.parse(words)}


def load_run_config(path: Path) -> RunConfig:
    """The `config.yaml` of a run folder, through the same gate and checks as any other config."""
    document = read_yaml(path)
    gate.refuse_calls(document.data, lambda key: document.where(key) or str(path))
    return _checked(document.data, lambda key: document.where(key) or str(path))[0]


def compose_draft(overrides: Sequence[str], *, config_dir: Path | None = None, config_name: str = PRIMARY) -> Draft:
    """Compose and fill in defaults, unparsed. Raises ConfigError or SecurityError."""
    for word in overrides:
        _check_word(word)
    with composer(search_folders(config_dir), config_name) as hydra:
        parsed = hydra.parse(overrides)
        words = [_translate(hydra, override) for override in parsed]
        flat = [word for group in words for word in group]
        flat += _foreseen_groups(hydra, parsed)
        groups = {o.key_or_group for o in parsed if hydra.group_exists(o.key_or_group)}
        composition = hydra.compose(_placed(hydra, flat))
        if more := _default_groups(hydra, composition):
            composition = hydra.compose(_placed(hydra, flat + more))
    data = dict(composition.data)
    sweep = data.pop("sweep", {})
    filled = _merge(kinds.defaults_of(RunConfig, data), data)
    locate = _locator(parsed, composition, groups)
    gate.refuse_calls(filled, lambda key: locate(key) or key)
    return Draft(filled, sweep if isinstance(sweep, dict) else {"": sweep}, composition, tuple(overrides), locate)


def finish(draft: Draft) -> Composed:
    """Resolve and parse a draft. Raises ConfigError with every violation."""
    config, resolved = _checked(draft.data, draft.where)
    return Composed(config, resolved, frozen_times(draft.data, resolved), draft.overrides)


def _checked(data: dict[str, Any], where: Callable[[str], str | None]) -> tuple[RunConfig, dict[str, Any]]:
    try:
        resolved = resolve(data)
        return rules.parse_run(resolved), resolved
    except ConfigError as error:
        problems = [
            problem if problem.where or not problem.key else replace(problem, where=where(problem.key))
            for problem in error.problems
        ]
        raise ConfigError.of(problems) from error


# Words ------------------------------------------------------------------------------------------


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def _check_word(word: str) -> None:
    """Refuse what is no override at all, in plain words."""
    if _key(word) and ("=" in word or word.startswith("~")):
        return
    tasks = [plugin.name for plugin in registry.plugins("task")]
    if word.startswith("-"):
        help: str | None = "list the flags by: chainft train --help"
    elif word in tasks:
        help = f"did you mean 'task={word}'?"
    else:
        help = "settings are given as key=value, for example optimizer.lr=3e-5"
    raise ConfigError(
        f"cannot read {word!r}: it is not of the form key=value", slug="bad-override", where=word, help=help
    )


def _translate(hydra: Composer, override: Override) -> list[str]:
    """The words by which Hydra does what a word means."""
    key, word = override.key_or_group, override.input_line or ""
    if override.is_sweep_override():
        raise ConfigError(
            f"{word} gives several values", slug="sweep-value", where=word, key=key,
            help=f"sweep over them by 'chainft train -m ...', or give a list: {key}=[...]",
        )  # fmt: skip
    value = override.value()
    if key == "hydra" or override.is_hydra_override():
        return _hydra_word(key, value, word)
    gate.refuse_calls({key: value}, lambda _: word)
    if not hydra.group_exists(key) or isinstance(value, dict):
        return [word if override.is_delete() else f"++{key}={override.get_value_element_as_str()}"]
    if override.is_delete():
        return [word]
    if override.package is not None:
        return [word]
    return _group_word(hydra, key, value, override)


def _group_word(hydra: Composer, group: str, value: object, override: Override) -> list[str]:
    """`model=bert-base-cased` names no config of the group: it is the model's path; a plug-in's name its name."""
    known = options(group, list(hydra.state.folders))
    if value is None:
        return []
    if isinstance(value, list) or str(value) in known:
        return [f"{group}={override.get_value_element_as_str()}"]
    if group == "model":
        return [f"++model.path={_quoted(str(value))}"]
    kind = {"task": "task", "data": "source"}.get(group)
    plugins = [plugin.name for plugin in registry.plugins("task" if kind == "task" else "source")] if kind else []
    if value in plugins:
        return [f"++{group}.name={value}"]
    names = sorted({*known, *plugins})
    raise ConfigError(
        f"{group} {str(value)!r} does not exist; there are: {', '.join(names)}",
        slug="unknown-option",
        where=override.input_line,
        key=group,
        help=did_you_mean(str(value), names) or _group_help(group, str(value)),
    )


def _group_help(group: str, value: str) -> str | None:
    if group == "data" and ("." in value or "/" in value):
        return f"files are given by data.train={value} data.validation=... data.test=..."
    if group == "optimizer":
        return f"any other optimizer of torch.optim is given by optimizer.name={value}"
    return None


def _hydra_word(key: str, value: object, word: str) -> list[str]:
    nested: object = value
    for part in reversed(key.replace("/", ".").split(".")[1:]):
        nested = {part: nested}
    gate.check_hydra(nested if isinstance(nested, Mapping) else {"": nested}, lambda _: word)
    entries = nested.get("searchpath") if isinstance(nested, Mapping) else None
    return [f"hydra.searchpath=[{','.join(_quoted(entry) for entry in search_path_entries(entries, where=word))}]"]


def _quoted(text: str) -> str:
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def _placed(hydra: Composer, words: Sequence[str]) -> list[str]:
    """Group words for a primary config that may lack a place for the group in its defaults list."""
    known = hydra.known_groups()
    return [
        f"+{word}" if word[0] not in "+~" and _is_group(hydra, word) and _key(word) not in known else word
        for word in words
    ]


def _is_group(hydra: Composer, word: str) -> bool:
    return hydra.group_exists(_key(word))


# Defaults that depend on other choices -------------------------------------------------------------


def _foreseen_groups(hydra: Composer, parsed: Sequence[Override]) -> list[str]:
    """The default model without a first composition to look at, where no file but ours can name another."""
    if len(hydra.state.folders) > 1 or any(o.key_or_group in ("experiment", "model") for o in parsed):
        return []
    if any(o.key_or_group.startswith("model.path") for o in parsed):
        return []
    return [f"model={STARTER_MODEL}"]


def _default_groups(hydra: Composer, composition: Composition) -> list[str]:
    """The model and the data that a run has when the words and files name none."""
    data, choices, more = composition.data, composition.choices, []
    folders = list(hydra.state.folders)
    if (
        choices.get("model") is None
        and "path" not in _node(data, "model")
        and STARTER_MODEL in options("model", folders)
    ):
        more.append(f"model={STARTER_MODEL}")
    if choices.get("data") is None and "name" not in _node(data, "data"):
        more += _default_data(data, choices, options("data", folders))
    return more


def _default_data(data: Mapping[str, Any], choices: Mapping[str, str | None], known: list[str]) -> list[str]:
    """The source that reads the given files, by their ending; without files the task's starter data."""
    given = [_node(data, "data")[split] for split in ("train", "validation", "test") if _node(data, "data").get(split)]
    if given:
        first = given[0][0] if isinstance(given[0], list) else given[0]
        source = _SOURCES.get(PurePath(str(first)).suffix.lower())
        if source is None:
            raise ConfigError(
                f"how to read {str(first)!r} is not known: no source is given, and its ending tells none",
                slug="no-source",
                key="data",
                help=f"choose one: data={'|'.join(name for name in known if not name.startswith('starter'))}",
            )
        return [f"data={source}" if source in known else f"++data.name={source}"]
    task = _node(data, "task")
    ending = "_multi" if task.get("multi_label") is True else ""
    wanted = [f"starter_{name}{ending}" for name in (choices.get("task"), task.get("name")) if name]
    return [f"data={name}" for name in wanted if name in known][:1]


def _node(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    node = data.get(name)
    return node if isinstance(node, Mapping) else {}


def _merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
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

"""What the words of a command line mean: each is turned into the words by which Hydra does that.

Hydra itself refuses a key that no file has; here every `key=value` is made to pass, so that `parse` can say
what was meant. `model=bert-base-cased`, which names no config of the group, becomes the model's path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from chainft import registry
from chainft.config import gate, kinds
from chainft.config.hydra_edge import Composer, search_path_entries
from chainft.config.search import options
from chainft.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def key_of(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].partition("@")[0]


def check_word(word: str) -> None:
    """Refuse what is no override at all, in plain words."""
    if key_of(word) and ("=" in word or word.startswith("~")):
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


def translate(hydra: Composer, override: Override) -> list[str]:
    """The words by which Hydra does what a word means."""
    key, word = override.key_or_group, override.input_line or ""
    if override.is_sweep_override():
        raise ConfigError(
            f"{word} gives several values", slug="sweep-value", where=word, key=key,
            help=f"sweep over them by 'chainft train -m ...', or give a list: {key}=[...]; "
            f"""a comma within a value needs quotes: '{key}="..."'""",
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
    kind = kinds.kind_of(group)
    plugins = [plugin.name for plugin in registry.plugins(kind)] if kind else []
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
    if group == "sweep" and value.casefold() in ("tpe", "random", "qmc", "cmaes"):
        return f"did you mean 'sweep=optuna sweep.sampler={value.casefold()}'?"
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


def placed(hydra: Composer, words: Sequence[str]) -> list[str]:
    """Group words for a primary config that may lack a place for the group in its defaults list."""
    known = hydra.known_groups()
    return [
        f"+{word}" if word[0] not in "+~" and _is_group(hydra, word) and key_of(word) not in known else word
        for word in words
    ]


def _is_group(hydra: Composer, word: str) -> bool:
    return hydra.group_exists(key_of(word))

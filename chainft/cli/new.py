"""`chainft new KIND NAME [--path FOLDER]`: a package of your own that works, to start from.

The files come from `chainft/templates`: `common` and the folder of the kind, with NAME and PACKAGE in their paths and
`$name` and the like in their text filled in. Nothing is imported.
"""

from __future__ import annotations

import keyword
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from string import Template

from chainft import __version__, registry
from chainft.cli.flags import HELP, Flag, flag_lines, split
from chainft.config.kinds import node_of
from chainft.config.search import CONFIGS, options
from chainft.errors import ConfigError, StorageError, did_you_mean

FLAGS = (HELP, Flag(("--path",), "the new folder; default ./NAME", metavar="FOLDER"))
MAX_NAME = 24
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TEMPLATES = Path(__file__).parents[1] / "templates"
_ENDING = ".txt"
"""Of template files, so that no tool takes them for Python of ours."""
_TRY = {
    "task": "chainft train task={name}",
    "source": "chainft train task=classify data=starter_{name}",
    "metric": "chainft train task=classify 'task.metrics=[classification,{name}]'",
    "head": "chainft train task=classify head={name}",
    "connector": "chainft train task=classify chain=cascade chain.stages.second.connector.name={name}",
    "stage": "chainft train task=classify chain=recurrent chain.stages.top.kind.name={name}",
    "augmentation": "chainft augment task=classify augment={name} --output more",
}


def run(arguments: list[str]) -> int:
    """Write the package and say what to type next. Raises ConfigError, or StorageError where it cannot be written."""
    given = split(arguments, FLAGS)
    if given.has("help") or not given.words:
        print(_help(), end="")
        return 0
    kind = _kind(given.words[0])
    if len(given.words) != 2:
        raise ConfigError(
            f"one name is needed, {len(given.words) - 1} are given",
            slug="bad-arguments",
            where=" ".join(given.words),
            help=f"chainft new {kind} NAME",
        )
    name = given.words[1]
    check_name(kind, name)
    folder = write_package(kind, name, Path(given.flags.get("path", name)))
    print(f"{folder}: the {kind} {name}, with an example that works")
    for line in (f"pip install -e {folder}", _TRY[kind].format(name=name), f"pytest {folder}"):
        print(f"  {line}")
    return 0


def check_name(kind: registry.Kind, name: str) -> None:
    """Raise ConfigError for a name that Python, chainft or an installed package does not leave free."""
    problem = help = None
    taken = {plugin.name: plugin for plugin in registry.plugins(kind)}
    group = node_of(kind)
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        problem = "is not a name of lower-case letters, digits and underscores that begins with a letter"
        plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_0123456789")
        help = f"did you mean {plain!r}?" if _NAME.fullmatch(plain) and not keyword.iskeyword(plain) else None
    elif len(name) > MAX_NAME:
        problem = f"has {len(name)} letters, the most is {MAX_NAME}"
    elif name in taken:
        problem = f"exists already: there is such a {kind} in the package {taken[name].distribution!r}"
    elif name in options(group):
        problem = f"exists already: there is a config {group}/{name}.yaml"
    elif find_spec(_package(name)) is not None:
        problem = f"is taken: a package {_package(name)!r} is installed"
    if problem:
        raise ConfigError(
            f"the name {name!r} {problem}", slug="bad-name", where=name, help=help or "choose another one"
        )


def write_package(kind: registry.Kind, name: str, folder: Path) -> Path:
    """Write the package, whole or not at all. Raises ConfigError where the folder is there, StorageError."""
    if folder.exists() or folder.is_symlink():
        raise ConfigError(
            f"{str(folder)!r} exists already",
            slug="output-exists",
            where=f"--path {folder}",
            help="choose another folder by --path FOLDER, or remove it",
        )
    temporary = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    try:
        for path, text in files(kind, name).items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            (temporary / path).write_text(text, encoding="utf-8")
        temporary.rename(folder)
    except OSError as error:
        raise StorageError(
            f"cannot write {str(folder)!r}: {error.strerror}", slug="write-failed", where=f"--path {folder}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def files(kind: registry.Kind, name: str) -> dict[str, str]:
    """Path in the package -> text, with everything filled in."""
    values = {
        "kind": kind,
        "name": name,
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "package": _package(name),
        "project": _package(name).replace("_", "-"),
        "version": __version__,
        "entry_points": _entry_points(kind, name),
    }
    found: dict[str, str] = {}
    for top in (_TEMPLATES / "common", _TEMPLATES / kind):
        for file in sorted(top.rglob(f"*{_ENDING}")):
            path = file.relative_to(top).as_posix().removesuffix(_ENDING)
            path = path.replace("PACKAGE", values["package"]).replace("NAME", name)
            found[f".{path}" if path == "gitignore" else path] = Template(file.read_text(encoding="utf-8")).substitute(
                values
            )
    return found


def _entry_points(kind: registry.Kind, name: str) -> str:
    package = _package(name)
    tables = {registry.GROUPS[kind]: f"{package}.{kind}:PLUGIN"}
    if (_TEMPLATES / kind / "src" / "PACKAGE" / "conf").is_dir():
        tables[CONFIGS] = f"{package}.conf"
    return (
        "".join(
            f'[project.entry-points."{group}"]\n{name} = "{target}"\n\n' for group, target in tables.items()
        ).rstrip("\n")
        + "\n"
    )


def _package(name: str) -> str:
    return f"chainft_{name}"


def _kind(word: str) -> registry.Kind:
    for kind in registry.KINDS:
        if kind == word:
            return kind
    raise ConfigError(
        f"there is no kind {word!r} of plug-in; there are: {', '.join(registry.KINDS)}",
        slug="unknown-kind",
        where=word,
        help=did_you_mean(word, registry.KINDS) or "chainft new task NAME",
    )


def _help() -> str:
    lines = [
        f"usage: chainft new {'|'.join(registry.KINDS)} NAME [--path FOLDER]",
        "",
        "Write a package with a plug-in that works: its code, settings (YAML), data and tests, to make your own.",
        "",
        "flags:",
        *flag_lines(FLAGS),
        "",
        "examples:",
        "  chainft new task sentiment",
        "  chainft new metric kappa --path packages/kappa",
    ]
    return "\n".join(lines) + "\n"

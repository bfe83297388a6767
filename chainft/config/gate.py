"""The gate in front of Hydra: refuses what could run code, before Hydra sees a file or an override.

Hydra's `_target_` and logging's `()` call whatever they name, `hydra.callbacks` do it before the program
starts, and `hydra.searchpath` reads files from anywhere. chainft never instantiates from a config, so
nothing is lost by refusing them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from chainft.errors import ConfigError, SecurityError

Where = Callable[[str], str | None]
"""Says where a dotted key stands: `file:line:column` or the word of the command line."""

_CALLABLE_KEYS = frozenset({"_target_", "()", "_partial_", "_recursive_", "_args_", "_convert_"})
_RUNNING = frozenset({"callbacks", "launcher", "sweeper", "job_logging", "hydra_logging"})

_HYDRA_HELP = {
    "run": "the run folder is set by run=FOLDER or runs_dir=FOLDER",
    "sweep": "the folder of a sweep is set by sweep.dir=FOLDER",
    "mode": "sweep by: chainft train -m",
    "sweeper": "the sweep is set by sweep=grid or sweep=optuna",
    "launcher": "where the jobs of a sweep run is set by sweep.engine and sweep.num_parallel",
    "verbose": "the full log is in the run folder, log.txt",
    "job": "set what is wanted in chainft's own settings: chainft config show",
}


def refuse_calls(data: object, where: Where) -> None:
    """Refuse keys by which Hydra or logging would call something. `where(dotted key)` says where it stands."""
    for key in _keys(data, ""):
        if key.rpartition(".")[2] in _CALLABLE_KEYS or key in _CALLABLE_KEYS:
            raise SecurityError(
                f"{key} is refused: a config may not name code to call",
                slug="code-in-config",
                where=where(key),
                key=key,
                help="tasks, sources and metrics are plug-ins, chosen by name",
            )


def check_hydra(data: object, where: Where) -> None:
    """Check the `hydra` node of a file or an override: only `hydra.searchpath` has a meaning in chainft.

    What could run code or change the environment is a SecurityError; the rest would have no effect and is
    a ConfigError.
    """
    keys = [f"hydra.{name}" for name in _keys(data, "")]
    for key in keys:
        words = key.split(".")
        if words[1] in _RUNNING or "env_set" in words:
            raise SecurityError(
                f"{key} is refused: it could run code or change the environment of the run",
                slug="hydra-setting",
                where=where(key),
                key=key,
                help=_HYDRA_HELP.get(words[1]),
            )
    for key in keys:
        is_group = any(other.startswith(f"{key}.") for other in keys)
        if not is_group and key.partition("[")[0] != "hydra.searchpath":
            raise ConfigError(
                f"{key} has no effect in chainft",
                slug="no-effect",
                where=where(key),
                key=key,
                help=_HYDRA_HELP.get(key.split(".")[1], "of Hydra's own settings only hydra.searchpath is used"),
            )


def allowed_search_path(entry: object, *, project: Path, packages: Mapping[str, Path], where: str) -> Path:
    """The folder of an entry of `hydra.searchpath`: in the project, or a package that declares configs.

    Raises SecurityError for any other place, ConfigError where it does not exist.
    """
    text = str(entry)
    if text.startswith("pkg://"):
        name = text.removeprefix("pkg://").strip("/").replace("/", ".")
        if name not in packages:
            raise _foreign(text, where, "only packages with an entry point of the group chainft.configs are searched")
        return packages[name]
    folder = (project / Path(text.removeprefix("file://")).expanduser()).resolve()
    if not folder.is_relative_to(project.resolve()):
        raise _foreign(
            text, where, "folders outside of the project are given on the command line: --config-dir FOLDER"
        )
    if not folder.is_dir():
        raise ConfigError(f"no such folder: {text!r}", slug="no-config-dir", where=where, key="hydra.searchpath")
    return folder


def _keys(data: object, at: str) -> Iterator[str]:
    """Dotted names of all keys, of lists of mappings too."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            dotted = f"{at}.{key}" if at else str(key)
            yield dotted
            yield from _keys(value, dotted)
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            yield from _keys(value, f"{at}[{index}]")


def _foreign(entry: str, where: str, help: str) -> SecurityError:
    return SecurityError(
        f"hydra.searchpath entry {entry!r} is refused: it is outside of the project",
        slug="foreign-search-path",
        where=where,
        key="hydra.searchpath",
        help=help,
    )

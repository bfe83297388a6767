"""Where config files are searched: the user's folders over plug-in packages over chainft's own `conf`.

No Hydra here, so that help and shell completion can list groups in no time.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from chainft.errors import ConfigError
from chainft.installed import EntryPoint, entry_points
from chainft.registry import is_allowed

GROUPS = ("task", "data", "model", "head", "chain", "optimizer", "scheduler", "tracker", "experiment", "sweep")
"""The config groups of chainft, in the order in which people meet them."""
CONFIGS = "chainft.configs"
"""Entry point group of folders of config files: `name = package.folder`."""
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
PRIMARY = "train"
"""The config that a run starts from: `train.yaml`."""


@dataclass(frozen=True)
class SearchFolder:
    """A folder of config files."""

    provider: str
    """Who brings it, as `--info searchpath` shows it."""
    path: Path


def own_folder() -> Path:
    """chainft's `conf`: inside the package in a wheel, beside it in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def search_folders(config_dir: Path | None = None) -> list[SearchFolder]:
    """The folders in order; the first that has a file wins. Raises ConfigError for a `config_dir` that is none."""
    folders: list[SearchFolder] = []
    if config_dir is not None:
        folder = config_dir.expanduser().absolute()
        if not folder.is_dir():
            raise ConfigError(
                f"no such folder: {str(config_dir)!r}", slug="no-config-dir", where=f"--config-dir {config_dir}"
            )
        folders.append(SearchFolder("--config-dir", folder))
    local = Path.cwd() / "conf"
    if local.resolve() != own_folder().resolve() and holds_configs(local):
        folders.append(SearchFolder("./conf", local))
    folders += [SearchFolder(f"plug-in {name}", path) for name, path in sorted(plugin_folders().items())]
    return [*folders, SearchFolder("chainft", own_folder())]


def holds_configs(folder: Path) -> bool:
    """Whether a folder has one of our groups or the primary config; another program's `conf` has not."""
    return (folder / f"{PRIMARY}.yaml").is_file() or any(
        next((folder / group).glob("*.yaml"), None) is not None for group in GROUPS if (folder / group).is_dir()
    )


@cache
def plugin_folders() -> Mapping[str, Path]:
    """`package.subpackage` -> folder, of the entry points `chainft.configs`; imports none of them.

    `CHAINFT_PLUGINS`, where it is set, lists the packages of which they are taken.
    """
    found = ((point.value, config_folder(point)) for point in entry_points(CONFIGS) if is_allowed(point.package))
    return {name: folder for name, folder in found if folder is not None}


def config_folder(point: EntryPoint) -> Path | None:
    """The folder that an entry point of `chainft.configs` names; None where there is no such folder."""
    return _package_folder(point.value) if _DOTTED.fullmatch(point.value) else None


def options(group: str, folders: list[SearchFolder] | None = None) -> list[str]:
    """The values of a group: names of its YAML files over all folders, sorted."""
    names = {file.stem for folder in folders or search_folders() for file in _files(folder.path / group)}
    return sorted(names)


def groups(folders: list[SearchFolder] | None = None) -> list[str]:
    """All groups: ours first, then those that users and plug-ins add."""
    found = {
        child.name for folder in folders or search_folders() for child in folder.path.iterdir() if any(_files(child))
    }
    return [*GROUPS, *sorted(found - set(GROUPS))]


def _files(folder: Path) -> Iterator[Path]:
    return folder.glob("*.yaml") if folder.is_dir() else iter(())


def _package_folder(dotted: str) -> Path | None:
    """The folder of a package, found without importing it (a parent package would run)."""
    top, *rest = dotted.split(".")
    spec = importlib.util.find_spec(top)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return next((folder for place in places if (folder := Path(place, *rest)).is_dir()), None)

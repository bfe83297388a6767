"""The edge to Hydra: composes words into a plain dict through gated files, and words its errors our way.

With `sweep.py` the only module that imports hydra. Files reach Hydra through `_GatedSource` alone, a config
source of our own, so that none is parsed before `document.read_yaml` and the gate passed it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import hydra.conf
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.defaults_list import DefaultsList
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from chainft.config import gate
from chainft.config.document import Document, read_trusted, read_yaml
from chainft.config.search import SearchFolder, own_folder, plugin_folders
from chainft.errors import ConfigError, did_you_mean

_CALL = re.compile(r"(choice|range|interval|glob|tag|sort|shuffle|cast|int|float|str|bool|json_str|extend_list)\(")
_KEY = re.compile(r"\+{0,2}\w[\w./-]*")
_HYDRA_CONF = Path(hydra.conf.__path__[0])


@dataclass
class _State:
    """What one composition knows: the folders, and the files that it read."""

    folders: Sequence[SearchFolder]
    documents: dict[str, Document] = field(default_factory=dict)
    """Config path such as `optimizer/sgd` -> its file."""

    def read(self, name: str, file: Path) -> Document:
        """The file of the config `name`, read and gated once."""
        document = self.documents.get(name)
        if document is None or document.path != _shown(file):
            trusted = file.is_relative_to(_HYDRA_CONF)
            document = self.documents[name] = read_trusted(file) if trusted else _gated(file)
        return document


_STATE: ContextVar[_State] = ContextVar("chainft_composition")


@dataclass(frozen=True)
class Composition:
    """What Hydra made of the words."""

    data: dict[str, Any]
    """The config as composed, interpolations as written, without the node `hydra`."""
    hydra: dict[str, Any]
    choices: Mapping[str, str | None]
    """Group -> chosen value."""
    documents: Mapping[str, Document]
    list_defaults: Callable[[], DefaultsList]

    @cached_property
    def defaults(self) -> tuple[tuple[str, str], ...]:
        """(config path, package) of each file, in the order in which they were merged."""
        return tuple((str(d.config_path), str(d.package or "")) for d in self.list_defaults().defaults)

    def where(self, key: str) -> str | None:
        """`file:line:column` of the setting of a dotted key that counts: the last file that has it."""
        places = [place for path in self.documents if (place := self._place(path, self._package(path), key))]
        if len(places) < 2:
            return next(iter(places), None)
        found = (self._place(path, package, key) for path, package in reversed(self.defaults))
        return next((place for place in found if place), None)

    def _place(self, path: str, package: str, key: str) -> str | None:
        """Where a file that is merged at `package` sets a key."""
        inner = key.removeprefix(f"{package}.") if package else key
        document = self.documents.get(path)
        return document.where(inner) if document and not (package and inner == key) else None

    def _package(self, path: str) -> str:
        """Where a file is merged as far as it says itself: its `@package` line, else its group."""
        header = ConfigSource._get_header_dict(self.documents[path].text[:512])["package"]
        group = path.rpartition("/")[0].replace("/", ".")
        return group if header in (None, "_group_") else "" if header == "_global_" else str(header)


class Composer:
    """Hydra on one search path. Use it within `composer`."""

    def __init__(self, loader: ConfigLoader, config_name: str, state: _State) -> None:
        self.loader = loader
        self.config_name = config_name
        self.state = state

    def parse(self, words: Sequence[str]) -> list[Override]:
        """The words in Hydra's grammar; a value that can only be text, such as `~/a(1).csv`, needs no quotes.

        Raises ConfigError for a word that is not in the grammar.
        """
        parser = OverridesParser.create(config_loader=self.loader)
        parsed = []
        for word in words:
            try:
                parsed += parser.parse_overrides([word])
            except OverrideParseException as error:
                if not _is_plain_text(word):
                    raise ConfigError(
                        f"cannot read {word!r}: {_grammar_fault(error)}",
                        slug="bad-override",
                        where=word,
                        help=_grammar_help(word),
                    ) from error
                parsed += parser.parse_overrides([_quoted_word(word)])
        return parsed

    def group_exists(self, group: str) -> bool:
        return any((folder.path / group).is_dir() for folder in self.state.folders)

    def known_groups(self) -> set[str]:
        """Groups that have a place in the defaults list of the primary config."""
        file = f"{self.config_name}.yaml"
        folder = next((folder.path for folder in self.state.folders if (folder.path / file).is_file()), None)
        entries = self.state.read(self.config_name, folder / file).data.get("defaults") if folder else None
        keys = [str(key) for entry in entries or () if isinstance(entry, Mapping) for key in entry]
        return {key.split()[-1].lstrip("/").partition("@")[0] for key in keys}

    def compose(self, overrides: Sequence[str]) -> Composition:
        """Compose. Raises ConfigError or SecurityError."""
        with _errors():
            config = compose(self.config_name, overrides=list(overrides), return_hydra_config=True)
            data = OmegaConf.to_container(config, resolve=False)
        if not isinstance(data, dict):
            raise TypeError(f"Hydra composed a {type(data).__name__}")
        plain: dict[str, Any] = {str(key): value for key, value in data.items()}
        node = plain.pop("hydra")
        context = copy_context()

        def list_defaults() -> DefaultsList:
            found = context.run(self.loader.compute_defaults_list, self.config_name, list(overrides), RunMode.RUN)
            return cast(DefaultsList, found)

        return Composition(plain, node, node["runtime"]["choices"], self.state.documents, list_defaults)


@contextmanager
def composer(folders: Sequence[SearchFolder], config_name: str) -> Iterator[Composer]:
    """Start Hydra's Compose API on these folders, and put its global state back at the end."""
    plugins = Plugins.instance()
    plugins.register(_GatedSource)
    plugins.register(_SearchPath)
    state = _State(folders)
    token = _STATE.set(state)
    try:
        with initialize_config_dir(str(own_folder()), job_name="chainft", version_base="1.3"):
            yield Composer(GlobalHydra.instance().config_loader(), config_name, state)
    finally:
        _STATE.reset(token)


class _SearchPath(SearchPathPlugin):
    """Puts the folders of the composition in progress on Hydra's path, after Hydra's own; nothing else stays."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if _STATE.get(None) is None:
            return
        search_path.get_path().clear()
        for folder in (SearchFolder("hydra", _HYDRA_CONF), *_STATE.get().folders):
            search_path.append(folder.provider, f"{_GatedSource.scheme()}://{folder.path}")


class _GatedSource(FileConfigSource):
    """A folder of config files that are read through the gate."""

    @staticmethod
    def scheme() -> str:
        return "chainft"

    def load_config(self, config_path: str) -> ConfigResult:
        name = config_path.removesuffix(".yaml")
        file = Path(self.path, f"{name}.yaml")
        document = _STATE.get().read(name, file)
        try:
            config = OmegaConf.create(document.data)
            header = ConfigSource._get_header_dict(document.text[:512])
        except (OmegaConfBaseException, ValueError) as error:
            raise ConfigError(_first_line(str(error)), slug="broken-yaml", where=str(file)) from error
        return ConfigResult(self.provider, self.full_path(), config, header)


def _gated(file: Path) -> Document:
    """Read a file; with `hydra.searchpath` turned into gated folders."""
    document = read_yaml(_shown(file))
    gate.refuse_calls(document.data, lambda key: document.where(key) or str(document.path))
    if "hydra" in document.data:
        gate.check_hydra(document.data["hydra"], lambda key: document.where(key) or str(document.path))
        entries = (document.data["hydra"] or {}).get("searchpath", [])
        document.data["hydra"] = {"searchpath": search_path_entries(entries, where=str(document.path))}
    return document


def search_path_entries(entries: object, *, where: str) -> list[str]:
    """The entries of `hydra.searchpath` as gated sources. Raises SecurityError for foreign ones."""
    if not isinstance(entries, (list, tuple)):
        raise ConfigError(
            f"hydra.searchpath = {entries!r}: expected a list", slug="wrong-type", where=where, key="hydra.searchpath"
        )
    folders = (
        gate.allowed_search_path(entry, project=Path.cwd(), packages=plugin_folders(), where=where)
        for entry in entries
    )
    return [f"{_GatedSource.scheme()}://{folder}" for folder in folders]


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into ConfigErrors."""
    try:
        yield
    except MissingConfigException as error:
        raise _missing_config(error) from error
    except (HydraException, OmegaConfBaseException) as error:
        cause: BaseException = error.__cause__ or error
        raise ConfigError(_first_line(str(error) or str(cause)), slug="composition") from error


def _missing_config(error: MissingConfigException) -> ConfigError:
    name = error.missing_cfg_file or "?"
    group, _, value = name.rpartition("/")
    if not group:
        return ConfigError(
            f"there is no config {name!r} on the search path",
            slug="no-config",
            help="see the search path by: chainft train --info searchpath",
        )
    options = sorted(error.options or ())
    within = str(error).partition(":")[0] if str(error).startswith("In '") else None
    return ConfigError(
        f"{group} {value!r} does not exist; there are: {', '.join(options) or 'none'}",
        slug="unknown-option",
        where=within,
        key=group,
        help=did_you_mean(value, options),
    )


def _shown(file: Path) -> Path:
    """The path as a person would write it: relative to the current folder where it is inside."""
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), text)


def _grammar_fault(error: OverrideParseException) -> str:
    """What Hydra's parser says, without the names of its classes."""
    text = _first_line(error.message)
    return "the value has a character that needs quotes" if "Exception" in text.partition(":")[0] else text


def _grammar_help(word: str) -> str:
    return f"quote the value twice, once for the shell and once for chainft: {shlex.quote(_quoted_word(word))}"


def _quoted_word(word: str) -> str:
    """The word with its value as a quoted text of Hydra's grammar."""
    key, _, value = word.partition("=")
    mark = "'" if '"' in value else '"'
    return f"{key}={mark}{value.replace(mark, chr(92) + mark)}{mark}"


def _is_plain_text(word: str) -> bool:
    """Whether the value cannot be meant as a list, several values, a mapping, a quoted text, a call or `${...}`."""
    key, equals, value = word.partition("=")
    structured = value[:1] in ("[", "{", '"', "'") or _CALL.match(value) or "${" in value
    several = "," in value and value != ","
    return bool(_KEY.fullmatch(key) and equals and value) and not (structured or several or "\\" in value)

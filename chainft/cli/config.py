"""`chainft config show [GROUP|KEY|GROUP=VALUE]`: what can be set, to what, and what it means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from chainft import registry
from chainft.cli.flags import HELP, Flag, flag_lines, split
from chainft.config import kinds
from chainft.config.describe import Setting, class_doc, settings
from chainft.config.plan_config import PlanConfig
from chainft.config.run import RunConfig
from chainft.config.search import GROUPS, groups, options, search_folders
from chainft.config.spellings import hint_for
from chainft.config.sweep_config import SweepConfig
from chainft.errors import ConfigError, did_you_mean

FLAGS = (HELP, Flag(("-cd", "--config-dir"), "a folder of config files, searched before ./conf", metavar="FOLDER"))


def run(arguments: list[str]) -> int:
    """Print what is asked for. Raises ConfigError for a key that does not exist."""
    given = split(arguments, FLAGS)
    if given.has("help") or not given.words:
        print("usage: chainft config show [GROUP | KEY | GROUP=VALUE]\n\nflags:")
        print("\n".join(flag_lines(FLAGS)))
        return 0
    verb, *subjects = given.words
    if verb != "show":
        raise ConfigError(
            f"there is no command 'config {verb}'",
            slug="unknown-command",
            where=verb,
            help=did_you_mean(verb, ["show"]) or f"did you mean 'chainft config show {verb}'?",
        )
    for index, subject in enumerate(subjects or [""]):
        print("\n" * bool(index) + "\n".join(lines(subject)))
    return 0


def lines(subject: str) -> Iterator[str]:
    """The text about all settings (``""``), a group, a key, or a value of a group."""
    if not subject:
        yield from _overview()
    elif "=" in subject:
        yield from _value(*subject.split("=", 1))
    elif subject in _sections() or subject in groups():
        yield from _section(subject)
    else:
        yield from _key(subject)


def _sections() -> dict[str, type]:
    """Top-level names that hold settings -> their config class."""
    found = {
        info.name: inner for info in kinds.fields_of(RunConfig) if (inner := kinds.config_class(info.kind)) is not None
    }
    return found | {"sweep": SweepConfig, "plan": PlanConfig}


def _overview() -> Iterator[str]:
    yield "Groups: GROUP=VALUE chooses a file, GROUP.KEY=VALUE sets one thing"
    for name, cls in _sections().items():
        values = ", ".join(options(name)) if name in GROUPS else ""
        yield f"  {name:<12}{class_doc(cls)}"
        if values:
            yield f"  {'':<12}values: {values}"
    yield f"  {'experiment':<12}A whole recipe in one file."
    yield f"  {'':<12}values: {', '.join(options('experiment'))}"
    yield ""
    yield "Settings of the run"
    top = [setting for setting in settings(RunConfig) if "." not in setting.key]
    yield from _settings(top)
    yield ""
    yield "More: chainft config show GROUP, chainft config show GROUP.KEY, chainft config show task=ner"


def _section(name: str) -> Iterator[str]:
    cls = _sections().get(name)
    if cls is not None:
        yield f"{name}: {class_doc(cls)}"
    if values := options(name):
        yield f"values: {', '.join(values)}"
        for value in values:
            yield f"  {name}={value:<24}{_comment(name, value)}"
    if cls is None:
        return
    yield ""
    yield from _settings(settings(cls, at=name))
    for plugin_name, own in _plugin_settings(cls, name):
        yield ""
        yield f"with {name}.name = {plugin_name}"
        yield from _settings(own)
    for plugin in _of_other_packages(cls):
        yield ""
        yield f"with {name}.name = {plugin.name} (package {plugin.distribution}): chainft config show {name}={plugin.name}"


def _plugin_settings(cls: type, at: str) -> Iterator[tuple[str, list[Setting]]]:
    """What each of our plug-ins of a kind adds to the common settings; those of others are only imported when named."""
    kind = kinds.PLUGIN_KINDS.get(cls)
    if kind is None:
        return
    common = {setting.key for setting in settings(cls, at=at)}
    for plugin in registry.plugins(kind):
        if plugin.distribution != registry.OWN:
            continue
        own = kinds.concrete(cls, {"name": plugin.name})
        added = [setting for setting in settings(own, at=at) if setting.key not in common]
        if added:
            yield plugin.name, added


def _of_other_packages(cls: type) -> list[registry.Plugin]:
    kind = kinds.PLUGIN_KINDS.get(cls)
    return [one for one in registry.plugins(kind) if one.distribution != registry.OWN] if kind else []


def _key(key: str) -> Iterator[str]:
    every = {setting.key: setting for setting in _every_setting()}
    if key in every:
        yield from _settings([every[key]])
        return
    below = [setting for name, setting in every.items() if name.startswith(f"{key}.")]
    if not below:
        raise ConfigError(
            f"{key} is not a setting", slug="unknown-key", where=key, key=key, help=hint_for(key, RunConfig, None, "")
        )
    yield from _settings(below)


def _every_setting() -> Iterator[Setting]:
    """Every setting of all our plug-ins, the common ones once."""
    yield from settings(RunConfig)
    yield from settings(SweepConfig, at="sweep")
    yield from settings(PlanConfig, at="plan")
    for cls, kind in kinds.PLUGIN_KINDS.items():
        for _, own in _plugin_settings(cls, kinds.node_of(kind)):
            yield from own


def _value(group: str, value: str) -> Iterator[str]:
    """The file of a group's value, and for plug-ins all their settings."""
    file = _file(group, value)
    plugin_kind = kinds.PLUGIN_KINDS.get(_sections().get(group, object))
    names = [plugin.name for plugin in registry.plugins(plugin_kind)] if plugin_kind else []
    if file is None and value not in names:
        known = sorted({*options(group), *names})
        raise ConfigError(
            f"{group} {value!r} does not exist; there are: {', '.join(known) or 'none'}",
            slug="unknown-option",
            where=f"{group}={value}",
            help=did_you_mean(value, known) or did_you_mean(group, groups()),
        )
    if file is not None:
        yield f"# {file[0]}"
        yield file[1].rstrip()
    if value in names:
        yield ""
        yield from _settings(settings(kinds.concrete(_sections()[group], {"name": value}), at=group))


def _file(group: str, value: str) -> tuple[str, str] | None:
    for folder in search_folders():
        file = folder.path / group / f"{value}.yaml"
        if file.is_file():
            return f"{folder.provider}: {group}/{value}.yaml", file.read_text(encoding="utf-8")
    return None


def _comment(group: str, value: str) -> str:
    """The first comment of a config file, for the list of values."""
    text = (_file(group, value) or ("", ""))[1].splitlines()
    comments = [line.lstrip("# ") for line in text if line.startswith("#") and not line.startswith("# @")]
    return comments[0] if comments else ""


def _settings(found: Iterable[Setting]) -> Iterator[str]:
    for setting in found:
        default = "must be given" if setting.default is None else f"= {setting.default}"
        yield f"  {setting.key} {default}"
        yield f"      {setting.expected}"
        if setting.doc:
            yield f"      {setting.doc}"

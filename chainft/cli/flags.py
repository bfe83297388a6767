"""Flags of a command: splits them from the words, and says what was meant by one that does not exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from chainft.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Flag:
    """One flag; `metavar` names its value where it takes one."""

    names: tuple[str, ...]
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    default_choice: str | None = None
    """The value where none of `choices` follows; makes the value optional."""

    @property
    def key(self) -> str:
        """Its longest name without dashes: `--config-dir` -> `config-dir`."""
        return max(self.names, key=len).lstrip("-")


@dataclass(frozen=True)
class Given:
    """The flags and the other words of a command line."""

    flags: Mapping[str, str] = field(default_factory=dict)
    """Key of the flag -> its value; the empty string for a flag without one."""
    words: tuple[str, ...] = ()

    def has(self, key: str) -> bool:
        return key in self.flags


HELP = Flag(("-h", "--help"), "this help")


def split(arguments: Sequence[str], flags: Sequence[Flag]) -> Given:
    """Tell flags from words; after `--` all are words. Raises ConfigError for an unknown flag or value."""
    by_name = {name: flag for flag in flags for name in flag.names}
    found: dict[str, str] = {}
    words: list[str] = []
    remaining = list(arguments)
    while remaining:
        word = remaining.pop(0)
        if word == "--":
            return Given(found, (*words, *remaining))
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        if name not in by_name:
            raise _unknown(name, by_name)
        flag = by_name[name]
        found[flag.key] = _value(flag, value if equals else None, remaining)
    return Given(found, tuple(words))


def flag_lines(flags: Sequence[Flag]) -> Iterator[str]:
    """The help lines of flags."""
    for flag in flags:
        names = ", ".join(flag.names)
        value = f" {flag.metavar or '|'.join(flag.choices)}" if flag.metavar or flag.choices else ""
        yield f"  {names + value:<36}{flag.help}"


def _value(flag: Flag, given: str | None, remaining: list[str]) -> str:
    """The value of a flag: after `=`, or the next word, which is then taken."""
    name = max(flag.names, key=len)
    if not flag.metavar and not flag.choices:
        if given is not None:
            raise ConfigError(f"{name} takes no value", slug="bad-flag", where=f"{name}={given}")
        return ""
    if given is None and flag.default_choice and (not remaining or remaining[0] not in flag.choices):
        return flag.default_choice
    if given is None:
        if not remaining:
            raise ConfigError(
                f"{name} needs a value: {flag.metavar or '|'.join(flag.choices)}", slug="bad-flag", where=name
            )
        given = remaining.pop(0)
    if flag.choices and given not in flag.choices:
        raise ConfigError(
            f"{name} {given}: expected {', '.join(flag.choices)}",
            slug="bad-flag",
            where=f"{name} {given}",
            help=did_you_mean(given, flag.choices),
        )
    return given


def _unknown(name: str, by_name: Mapping[str, Flag]) -> ConfigError:
    known = ", ".join(max(flag.names, key=len) for flag in dict.fromkeys(by_name.values()))
    plain = name.lstrip("-").replace("-", "_")
    help = did_you_mean(name, by_name) or f"settings have no dashes: {plain}=...; flags are: {known}"
    return ConfigError(f"unknown flag {name!r}", slug="unknown-flag", where=name, help=help)

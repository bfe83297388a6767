"""`chainft completion bash|zsh|fish`: prints a script; the script asks `chainft completion --words LINE`.

Candidates come from the dataclasses and the names of config files, without Hydra.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from chainft.cli.flags import HELP, Flag, split
from chainft.cli.main import VERBS
from chainft.errors import ConfigError, did_you_mean

_BASH = """\
# chainft completion for bash. Use it by:  eval "$(chainft completion bash)"
_chainft() {
    local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\\n'
    local word="${COMP_WORDS[COMP_CWORD]}" typed="${line##* }"
    COMPREPLY=($(chainft completion --words "$line" 2>/dev/null))
    # Readline breaks words at '=' and ':'; give back only what follows the last break.
    local cut="${typed%"$word"}"
    [ "$word" = "=" ] && cut="$typed"
    COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    case "${COMPREPLY[0]}" in *=|*.) compopt -o nospace ;; esac
}
complete -o default -o nosort -F _chainft chainft
"""

_ZSH = """\
#compdef chainft
# chainft completion for zsh. Use it by:  source <(chainft completion zsh)
_chainft() {
    local -a found open closed
    found=("${(@f)$(chainft completion --words "${LBUFFER}" 2>/dev/null)}")
    open=(${(M)found:#*[=.]}) closed=(${found:#*[=.]})
    (( $#open )) && compadd -Q -S '' -- $open
    (( $#closed )) && compadd -Q -- $closed
    (( $#open + $#closed )) || _files
}
compdef _chainft chainft
"""

_FISH = """\
# chainft completion for fish. Use it by:  chainft completion fish | source
complete -c chainft -a '(chainft completion --words (commandline -cp) 2>/dev/null)'
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
FLAGS = (HELP, Flag(("--words",), "print the candidates for the end of this command line", metavar="LINE"))
_WORDS_VERBS = ("train", "check", "evaluate", "plan", "bench")
_RUN_VERBS = ("evaluate", "predict")


def run(arguments: list[str]) -> int:
    """Print a script, or the candidates for a line. Raises ConfigError for an unknown shell."""
    given = split(arguments, FLAGS)
    if given.has("words"):
        for candidate in candidates(given.flags["words"]):
            print(candidate)
        return 0
    if given.has("help") or not given.words:
        print("usage: chainft completion bash|zsh|fish\n")
        print('  bash: eval "$(chainft completion bash)"      in ~/.bashrc')
        print("  zsh:  source <(chainft completion zsh)       in ~/.zshrc")
        print("  fish: chainft completion fish | source       in ~/.config/fish/config.fish")
        return 0
    shell = given.words[0]
    if shell not in SCRIPTS:
        raise ConfigError(
            f"there is no completion for {shell!r}; there is one for: {', '.join(SCRIPTS)}",
            slug="unknown-shell",
            where=shell,
            help=did_you_mean(shell, SCRIPTS),
        )
    print(SCRIPTS[shell], end="")
    return 0


def candidates(line: str) -> list[str]:
    """What the last word of a command line may become; empty for "file names, please"."""
    words = line.split(" ")
    current, before = words[-1], [word for word in words[1:-1] if word]
    if not before:
        return _matching([*VERBS, "--help", "--version"], current)
    verb = before[0]
    if current.startswith("-"):
        return _matching(_flags(verb), current)
    if verb == "config":
        subjects = [name for name in _names(current) if not name.endswith(".")] if before[1:] else ["show"]
        return _matching([name.rstrip("=") for name in subjects], current)
    if verb == "check" and not before[1:]:
        return _matching(["data"], current)
    if verb == "cache" and not before[1:]:
        from chainft.cli.cache import ACTIONS

        return _matching(ACTIONS, current)
    if verb == "completion":
        return _matching(SCRIPTS, current)
    if verb == "new":
        from chainft.registry import KINDS

        return [] if before[1:] else _matching(KINDS, current)
    if verb not in _WORDS_VERBS or (verb in _RUN_VERBS and not before[1:]):
        return []
    prefix = current[: len(current) - len(current.lstrip("+~"))]
    plain = current[len(prefix) :]
    found = _values(plain) if "=" in plain else _names(plain, before)
    return [prefix + name for name in _matching(found, plain)]


def _names(word: str, before: Sequence[str] = ()) -> list[str]:
    """`group=` and keys; keys of a group once its dot is typed. `before`: the words that stand before."""
    from chainft.config import kinds
    from chainft.config.run import RunConfig
    from chainft.config.search import groups

    keys = list(kinds.leaf_paths(RunConfig))
    if "." in word:
        section = word.partition(".")[0]
        return [
            f"{key}="
            for key in dict.fromkeys([*keys, *_plugin_keys(section, before)])
            if key.startswith(f"{section}.")
        ]
    sections = dict.fromkeys(f"{key.partition('.')[0]}." for key in keys if "." in key)
    return [*(f"{group}=" for group in groups()), *sections, *(f"{key}=" for key in keys if "." not in key)]


def _plugin_keys(section: str, before: Sequence[str]) -> Iterator[str]:
    """Keys that plug-ins add to `task` or `data`, and those of `sweep`; of other packages, of plug-ins named before."""
    from chainft import registry
    from chainft.config import kinds
    from chainft.config.plan_config import PlanConfig
    from chainft.config.sweep_config import SweepConfig

    nodes: dict[str, type] = {"sweep": SweepConfig, "plan": PlanConfig}
    if section in nodes:
        yield from kinds.leaf_paths(nodes[section], at=section)
    for cls, kind in kinds.PLUGIN_KINDS.items():
        if section == kinds.node_of(kind):
            for plugin in registry.plugins(kind):
                if plugin.distribution == registry.OWN or f"{section}={plugin.name}" in before:
                    yield from kinds.leaf_paths(kinds.concrete(cls, {"name": plugin.name}), at=section)


def _values(word: str) -> list[str]:
    """`key=value` for the values that are known: a group's, a literal's."""
    from chainft.config.search import groups, options

    key, _, _ = word.partition("=")
    known = [*options(key), *_plugins_without_file(key)] if key in groups() else _choices(key)
    return [f"{key}={value}" for value in known]


def _plugins_without_file(group: str) -> list[str]:
    """Plug-ins that are chosen by name though no config file has it."""
    from chainft import registry
    from chainft.config import kinds
    from chainft.config.search import options

    kind = kinds.kind_of(group)
    return [plugin.name for plugin in registry.plugins(kind) if plugin.name not in options(group)] if kind else []


def _choices(key: str) -> list[str]:
    from chainft.config import kinds
    from chainft.config.run import RunConfig

    cls: type | None = RunConfig
    *parents, leaf = key.split(".")
    for part in parents:
        info = next((info for info in kinds.fields_of(cls) if info.name == part), None) if cls else None
        cls = kinds.config_class(info.kind) if info else None
    field = next((info for info in kinds.fields_of(cls) if info.name == leaf), None) if cls else None
    return (
        [str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in kinds.choices(field.kind)]
        if field
        else []
    )


def _flags(verb: str) -> list[str]:
    common = ["--help", "--errors"]
    flags: tuple[Flag, ...] = ()
    if verb == "train":
        from chainft.cli.train import FLAGS as flags
    elif verb == "cache":
        from chainft.cli.cache import FLAGS as flags
    elif verb == "chat":
        from chainft.cli.chat import FLAGS as flags
    elif verb == "new":
        from chainft.cli.new import FLAGS as flags
    elif verb == "bench":
        from chainft.cli.bench import FLAGS as flags
    return [*common, *(name for flag in flags for name in flag.names if name.startswith("--") and name != "--help")]


def _matching(words: Iterable[str], start: str) -> list[str]:
    return [word for word in words if word.startswith(start)]

"""`chainft train`: compose, check, train; `-m` sweeps; `--cfg` and `--info` show what was composed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chainft import registry
from chainft.cli.collecting import importing
from chainft.cli.flags import HELP, Flag, Given, flag_lines, split
from chainft.config.search import PRIMARY, groups, options
from chainft.errors import ConfigError

if TYPE_CHECKING:
    from chainft.config.compose import Composed

FLAGS = (
    HELP,
    Flag(("-m", "--multirun"), "sweep: one run for each combination of the values given with commas"),
    Flag(("--print-jobs",), "with -m: print one command for each job, for any scheduler, and run none"),
    Flag(("--print-sbatch",), "print a script for Slurm's sbatch that starts this run, and run nothing"),
    Flag(("-cd", "--config-dir"), "a folder of config files, searched before ./conf", metavar="FOLDER"),
    Flag(("-cn", "--config-name"), f"the config to start from (default {PRIMARY})", metavar="NAME"),
    Flag(("-c", "--cfg"), "print the config instead of training", choices=("job", "hydra", "all")),
    Flag(("--resolve",), "with --cfg: with interpolations resolved"),
    Flag(("-p", "--package"), "with --cfg: only this part, for example optimizer", metavar="KEY"),
    Flag(
        ("-i", "--info"),
        "print how the config came about instead of training",
        choices=("searchpath", "defaults", "config", "all"),
        default_choice="all",
    ),
)


def run(arguments: list[str]) -> int:
    """Train as the words say. Raises ChainftError."""
    given = split(arguments, FLAGS)
    if given.has("help"):
        print(_help(), end="")
        return 0
    _refuse_ignored(given)
    if given.has("cfg") or given.has("info"):
        from chainft.cli.composed import show

        return show(given)
    if given.has("multirun"):
        from chainft.cli.multirun import run_sweep

        return run_sweep(given)
    if given.has("print-sbatch"):
        from chainft.cli.sbatch import sbatch_script, words_for

        composed = compose_new(given, words_for(given.words))
        print(sbatch_script(composed.config, [*_config_flags(given), *given.words]), end="")
        return 0
    composed = _composed(given)
    from chainft.cli.early import check_early
    from chainft.cli.slurm import adopt_step

    check_early(composed.config)
    adopt_step(composed.config)
    from chainft.train.launch import launch, needs_launch

    if needs_launch(composed.config):
        launch(composed)
        return 0
    with importing("chainft.train.session"):
        from chainft.train.session import run_training

    run_training(composed)
    return 0


def _refuse_ignored(given: Given) -> None:
    """Flags that would do nothing beside the others."""
    for flag in ("resolve", "package"):
        if given.has(flag) and not given.has("cfg"):
            raise ConfigError(
                f"--{flag} has no effect without --cfg",
                slug="no-effect",
                where=f"--{flag}",
                help="print the config by: chainft train ... --cfg job",
            )
    if given.has("print-sbatch") and (given.has("multirun") or _resumed_run(given) is not None):
        raise ConfigError(
            "--print-sbatch is for one new run",
            slug="contradiction",
            where="--print-sbatch",
            help="for a sweep see sweep.engine=submitit and --print-jobs; the script goes on with its run by itself",
        )
    if given.has("print-jobs") and not given.has("multirun"):
        raise ConfigError(
            "--print-jobs has no effect without -m", slug="no-effect", where="--print-jobs", help="add -m to sweep"
        )
    for flag in ("config-dir", "config-name"):
        if given.has(flag) and _resumed_run(given) is not None:
            raise ConfigError(
                f"--{flag} has no effect on a run that is resumed: its settings are in its config.yaml",
                slug="no-effect",
                where=f"--{flag}",
            )


def _resumed_run(given: Given) -> str | None:
    """The run folder that the words ask to go on with."""
    words = dict(word.split("=", 1) for word in given.words if "=" in word)
    resumed = words.get("resume", "").lower() == "true" and words.get("run")
    return words["run"].strip("'\"") if resumed else None


def _composed(given: Given) -> Composed:
    """The settings: composed anew, or those of the run that goes on."""
    run = _resumed_run(given)
    if run is not None:
        from chainft.config.saved import compose_resumed

        others = [word for word in given.words if not word.startswith(("run=", "resume="))]
        return compose_resumed(run, others)
    return compose_new(given, given.words)


def compose_new(given: Given, words: Sequence[str]) -> Composed:
    """The settings that the words make with the configs that the flags name."""
    from chainft.config.compose import compose

    return compose(words, config_dir=config_dir(given), config_name=config_name(given))


def _config_flags(given: Given) -> list[str]:
    return [f"--{name}={given.flags[name]}" for name in ("config-dir", "config-name") if given.has(name)]


def config_dir(given: Given) -> Path | None:
    """The folder that `--config-dir` names."""
    return Path(given.flags["config-dir"]) if given.has("config-dir") else None


def config_name(given: Given) -> str:
    """The primary config that `--config-name` names."""
    return given.flags.get("config-name", PRIMARY)


def _help() -> str:
    tasks = ", ".join(plugin.name for plugin in registry.plugins("task"))
    lines = [
        "usage: chainft train task=NAME [key=value ...] [flags]",
        "",
        f"tasks: {tasks}",
        "",
        "groups (GROUP=VALUE chooses one of these; chainft config show GROUP explains):",
        *(f"  {group:<12}{', '.join(options(group))}" for group in groups()),
        "",
        "settings (key=value changes one): chainft config show",
        "",
        "flags:",
        *flag_lines(FLAGS),
        "",
        "examples:",
        "  chainft train task=ner",
        "  chainft train task=classify data.train=train.csv data.columns.text=sentence model=bert-base-cased",
        "  chainft train run=runs/FOLDER resume=true",
        "  chainft train -m task=ner optimizer.lr=1e-4,3e-4 seed=1,2",
    ]
    return "\n".join(lines) + "\n"

"""`chainft check data|chain ...`: what is wrong with data or chain before any training.

The checks of data are those that start `train`; for chains see `check_chain`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from chainft.cli.flags import HELP, Flag, flag_lines, split
from chainft.errors import ConfigError, DataError, ModelError, did_you_mean

if TYPE_CHECKING:
    from chainft.config.run import RunConfig
    from chainft.data.example import Finding, Split
    from chainft.data.load import Splits
    from chainft.data.store import FeatureStore
    from chainft.tasks.base import Task

SUBJECTS = ("data", "chain")
FLAGS = (
    HELP,
    Flag(("--no-tokenizer",), "do not tokenise: faster, but nothing is said about lengths"),
    Flag(("--json",), "print one JSON object instead of tables"),
)


def run(arguments: list[str]) -> int:
    """Check as the words say; exit code 3 where a finding is an error. Raises ChainftError."""
    given = split(arguments, FLAGS)
    if given.has("help"):
        print(_help(), end="")
        return 0
    _check_subject(given.words[:1])
    if given.words[0] == "chain":
        if given.has("no-tokenizer"):
            raise ConfigError("--no-tokenizer has no effect on a chain", slug="no-effect", where="--no-tokenizer")
        from chainft.cli.check_chain import run_check_chain

        return run_check_chain(given)
    from chainft.config.compose import compose

    config = compose(given.words[1:]).config
    card, findings = examine(config, tokenised=not given.has("no-tokenizer"))
    if given.has("json"):
        sys.stdout.write(json.dumps(card, ensure_ascii=False) + "\n")
    else:
        _print(card, findings)
    return DataError.exit_code if any(finding.severity == "error" for finding in findings) else 0


def examine(config: RunConfig, *, tokenised: bool) -> tuple[dict[str, Any], list[Finding]]:
    """The data card and all findings, errors first. Raises ChainftError where the data cannot be read at all."""
    from chainft import registry
    from chainft.data.card import data_card
    from chainft.data.contract import check_contract
    from chainft.data.load import load_splits

    task: Task = registry.find("task", config.task.name, key="task.name")(config.task)
    splits = load_splits(config.data, task)
    stores: Mapping[Split, FeatureStore] = {}
    found = _label_errors(config, task, splits)
    told = {finding.slug for finding in found}
    if tokenised and not found:
        stores, notes = _tokenise(config, task, splits)
        found += notes
    found += [finding for finding in check_contract(splits, task, stores=stores) if finding.slug not in told]
    found.sort(key=lambda finding: ("error", "warning", "info").index(finding.severity))
    return data_card(splits, task, found, stores), found


def _label_errors(config: RunConfig, task: Task, splits: Splits) -> list[Finding]:
    """What `learn_labels` refuses, as findings, so that everything else is told beside it.

    The task then has all labels, as if `data.unseen_labels` were `allow`. Raises DataError where even that fails.
    """
    from chainft.data.example import Finding

    try:
        task.learn_labels(splits.examples, unseen=config.data.unseen_labels)
    except DataError as error:
        task.learn_labels(splits.examples, unseen="allow")
        return [Finding(one.slug, "error", one.message, one.where, one.help) for one in error.problems]
    return []


def _tokenise(config: RunConfig, task: Task, splits: Splits) -> tuple[Mapping[Split, FeatureStore], list[Finding]]:
    """The tokenised splits, which `train` will find in the cache; without the model, a note instead."""
    from chainft.data.example import Finding
    from chainft.report.logs import setup_logging
    from chainft.report.progress import PhaseProgress
    from chainft.train.prepare import tokenise

    setup_logging(None)
    try:
        with PhaseProgress() as phase:
            return tokenise(config, task, splits, progress=phase.update, poll=lambda: None), []
    except ModelError as error:
        first = error.problems[0]
        return {}, [Finding("lengths-unknown", "info", f"lengths are not checked: {first.message}", help=first.help)]


def _print(card: Mapping[str, Any], findings: list[Finding]) -> None:
    from chainft.report.console import output, print_findings
    from chainft.report.inspection import print_data_card

    print_data_card(card)
    print_findings((asdict(finding) for finding in findings), console=output())
    counts = {kind: sum(one.severity == kind for one in findings) for kind in ("error", "warning", "info")}
    words = {"error": ("error", "errors"), "warning": ("warning", "warnings"), "info": ("note", "notes")}
    told = [f"{number} {words[kind][number != 1]}" for kind, number in counts.items() if number]
    print(", ".join(told) if told else "nothing to complain about")


def _check_subject(words: tuple[str, ...]) -> None:
    if words and words[0] in SUBJECTS:
        return
    word = words[0] if words else ""
    if "=" in word:
        help: str | None = f"did you mean 'chainft check data {word} ...'?"
    else:
        help = did_you_mean(word, SUBJECTS) or "chainft check data task=ner data.train=train.conll"
    raise ConfigError(
        f"chainft check {word or '(nothing)'}: say what to check: {', '.join(SUBJECTS)}",
        slug="unknown-subject",
        where=word or None,
        help=help,
    )


def _help() -> str:
    lines = [
        "usage: chainft check data|chain task=NAME [key=value ...] [flags]",
        "",
        "data:",
        "Reads the data as 'chainft train' would and tells what is wrong or odd: malformed rows, labels that only",
        "an evaluation split has, duplicates, leaks between splits, conflicting and rare labels, odd characters,",
        "lengths against the model's limit. Exit code 3 if there is an error, else 0.",
        "",
        "chain:",
        "Runs a few examples through the whole model and through its stages apart from each other, and compares",
        "logits, loss and every gradient; looks for ties that do not hold and gradients of frozen parameters.",
        "Exit code 4 if something differs, else 0.",
        "",
        "flags:",
        *flag_lines(FLAGS),
        "",
        "examples:",
        "  chainft check data task=ner",
        "  chainft check data task=ner data.train=train.conll data.validation=dev.conll data.test=test.conll",
        "  chainft check chain task=ner chain.split=3",
        "  chainft check data task=classify data.train=train.csv data.columns.text=sentence --json",
    ]
    return "\n".join(lines) + "\n"

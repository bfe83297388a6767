"""`chainft augment task=NAME augment=HOW --output FOLDER`: new labelled training data from those there are."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainft.cli.flags import HELP, Flag, Given, flag_lines, split
from chainft.errors import ConfigError

if TYPE_CHECKING:
    from chainft.augmentations.base import Augmentation
    from chainft.tasks.base import Task

FLAGS = (
    HELP,
    Flag(("-o", "--output"), "folder for the new data set; must not exist", metavar="FOLDER"),
    Flag(("--only-new",), "write no original training examples, only new ones"),
)
NODE = "augment"


def run(arguments: list[str]) -> int:
    """Make new examples as the words say. Raises ChainftError."""
    given = split(arguments, FLAGS)
    if given.has("help"):
        print(_help(), end="")
        return 0
    mine, others = _parted(given.words)
    output = _output(given)
    from chainft import registry
    from chainft.config.compose import compose

    config = compose(others).config
    task: Task = registry.find("task", config.task.name, key="task.name")(config.task)
    augmentation = _augmentation(mine, task)
    from chainft.augmentations._dataset import write_dataset
    from chainft.data.load import load_splits
    from chainft.report.logs import setup_logging
    from chainft.report.progress import PhaseProgress

    if augmentation.uses_models:
        importlib.import_module("chainft.infer.trained")
    setup_logging(None)
    splits = load_splits(config.data, task)
    task.learn_labels(splits.examples, unseen=config.data.unseen_labels)
    with PhaseProgress() as phase:
        facts = write_dataset(
            augmentation,
            splits,
            output,
            keep_originals=not given.has("only-new"),
            progress=lambda done, total: phase.update(f"augment by {augmentation.config.name}", done, total),
        )
    _tell(facts, output, others)
    return 0


def _parted(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The settings of the augmentation, and the words that are for task and data."""
    import yaml

    mine: dict[str, Any] = {}
    others: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        if key == NODE or key.startswith(f"{NODE}."):
            name = "name" if key == NODE else key.partition(".")[2]
            if not equals or "." in name or not name:
                raise ConfigError(f"{word!r} is no setting", slug="bad-word", where=word, help="such as augment=mix")
            if name in mine:
                raise ConfigError(f"{key} is given twice", slug="given-twice", where=word, key=key)
            mine[name] = yaml.safe_load(text)
        else:
            others.append(word)
    return mine, others


def _augmentation(settings: Mapping[str, Any], task: Task) -> Augmentation:
    from chainft import registry
    from chainft.config.parse import parse

    if "name" not in settings:
        names = ", ".join(plugin.name for plugin in registry.plugins("augmentation"))
        raise ConfigError(
            "no augmentation is chosen", slug="missing-key", key=NODE, help=f"augment=NAME; there are: {names}"
        )
    plugin = registry.find("augmentation", str(settings["name"]), key=f"{NODE}.name")
    made: Augmentation = plugin(parse(plugin.config_class, dict(settings), at=NODE), task)
    return made


def _output(given: Given) -> Path:
    if not given.has("output"):
        raise ConfigError(
            "no folder is named for the new data set", slug="missing-flag", where="--output", help="--output FOLDER"
        )
    folder = Path(given.flags["output"])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{str(folder)!r} exists" + (" and is not empty" if folder.is_dir() else " and is a file"),
            slug="output-exists",
            where="--output",
            help="choose another folder",
        )
    return folder


def _tell(facts: Mapping[str, Any], folder: Path, words: Sequence[str]) -> None:
    counts = facts["examples"]
    left_out = [f"{counts[name]} {text}" for name, text in _LEFT_OUT.items() if counts.get(name)]
    told = f"; left out: {', '.join(left_out)}" if left_out else ""
    print(f"{counts['new']} new examples from {counts['original']}{told}")
    task = [word for word in words if word.startswith("task") and not word.startswith("task.scheme=")]
    files = [f"data.{split}={folder / f'{split}.jsonl'}" for split in ("train", "validation", "test")
             if (folder / f"{split}.jsonl").is_file()]  # fmt: skip
    print("Next", file=sys.stderr)
    print(f"  chainft train {' '.join([*task, 'data=jsonl', *files])}", file=sys.stderr)


_LEFT_OUT = {"duplicate": "that read like others", "held_out": "that read like validation or test examples"}


def _help() -> str:
    from chainft import registry

    names = ", ".join(plugin.name for plugin in registry.plugins("augmentation"))
    lines = [
        "usage: chainft augment task=NAME [key=value ...] augment=HOW [augment.key=value ...] --output FOLDER",
        "",
        "Makes new labelled training examples from those there are, and writes a data set in which every row says",
        "where it comes from. Validation and test examples are never a source; what reads like one, or like",
        "another training example, is left out.",
        "",
        f"ways (augment=): {names}",
        "",
        "  mix             ner: entities are exchanged for others of their type",
        "  mask            words are replaced by a masked language model: augment.model=NAME; entities stay",
        "  back_translate  classify: there and back by two runs: augment.there=RUN augment.back=RUN",
        "  by_label        classify: a run writes texts for each label: augment.run=RUN augment.filter=RUN",
        "",
        "settings of all: augment.num_copies=1 (new examples of each), augment.seed=42",
        "",
        "flags:",
        *flag_lines(FLAGS),
        "",
        "examples:",
        "  chainft augment task=ner augment=mix augment.num_copies=2 --output mixed",
        "  chainft augment task=ner data=conll data.train=train.conll augment=mask augment.model=bert-base-cased -o new",
    ]
    return "\n".join(lines) + "\n"

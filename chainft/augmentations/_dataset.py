"""Writes an augmented data set: training examples, old and new, each with its provenance; validation and test as they are.

The splits are those that `chainft train` would make of the same settings, so what is held out is held out here too:
no example of it is a source, and a new one that reads the same is dropped.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainft import __version__
from chainft.augmentations.base import Augmentation, Made, Progress, is_tagged
from chainft.config.parse import dump
from chainft.data.example import Example
from chainft.errors import DataError
from chainft.run_folder import write_json, write_text
from chainft.text.tagged import iob2

if TYPE_CHECKING:
    from chainft.data.load import Splits
    from chainft.tasks.base import Task

FORMAT = 1
PROVENANCE = "provenance"
"""The column that says where a row comes from; no task reads it."""
_SPACE = re.compile(r"\s+")


def write_dataset(
    augmentation: Augmentation, splits: Splits, folder: Path, *, keep_originals: bool, progress: Progress
) -> dict[str, Any]:
    """Write `train.jsonl`, the other splits and `augmentation.json`; returns the content of the last.

    Raises DataError where nothing new came out, StorageError where the folder cannot be written.
    """
    task, train = augmentation.task, splits.examples["train"]
    counts: Counter[str] = Counter(original=len(train))
    made = augmentation.make(train, progress=progress)
    fresh = [_row(task, one.values, _origin(augmentation, one)) for one in _new(task, splits, made, counts)]
    if not fresh:
        raise DataError(
            f"augment={augmentation.config.name} made nothing new of {len(train)} training examples "
            f"({counts['duplicate']} repeat others, {counts['held_out']} equal held-out ones)",
            slug="nothing-new",
            help="raise augment.num_copies, or let it change more",
        )
    kept = [_row(task, one.values, _original(one)) for one in train] if keep_originals else []
    counts["new"] = len(fresh)
    _write(folder / "train.jsonl", [*kept, *fresh])
    for split in ("validation", "test"):
        if split in splits.examples:
            rows = [_row(task, one.values, _original(one)) for one in splits.examples[split]]
            _write(folder / f"{split}.jsonl", rows)
    facts = {
        "format": FORMAT,
        "chainft": __version__,
        "task": task.config.name,
        "augmentation": dump(augmentation.config),
        "data": splits.fingerprint,
        "examples": dict(counts),
        "originals_kept": keep_originals,
    }
    write_json(folder / "augmentation.json", facts)
    return facts


def _new(task: Task, splits: Splits, made: Iterable[Made], counts: Counter[str]) -> Iterator[Made]:
    """What reads unlike all else; counts what does not."""
    held_out = {
        key_of(task, one.values) for split, rows in splits.examples.items() if split != "train" for one in rows
    }
    seen = {key_of(task, one.values) for one in splits.examples["train"]}
    for one in made:
        key = key_of(task, one.values)
        reason = "held_out" if key in held_out else "duplicate" if key in seen else None
        if reason:
            counts[reason] += 1
            continue
        seen.add(key)
        yield one


def key_of(task: Task, values: Mapping[str, Any]) -> str:
    """What an example reads as: its input, without case and kind of white space."""
    inputs = [values.get(field.name) for field in task.fields if not field.gold]
    return _SPACE.sub(" ", json.dumps(inputs, ensure_ascii=False).casefold()).strip()


def _row(task: Task, values: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """An example as a JSON line; tags in IOB2 whatever their scheme was, as new ones are."""
    row = {name: value for name, value in values.items() if value is not None}
    if is_tagged(task):
        row["tags"] = iob2(_bare(values))
    return {**row, PROVENANCE: dict(provenance)}


def _bare(values: Mapping[str, Any]) -> Example:
    from chainft.text.inputs import text_example

    return text_example(values, "augmented")


def _origin(augmentation: Augmentation, made: Made) -> dict[str, Any]:
    source = {} if made.source is None else {"source": asdict(made.source.origin)}
    return {"method": augmentation.config.name, **source, **made.facts}


def _original(example: Example) -> dict[str, Any]:
    return {"method": "original", "source": asdict(example.origin)}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

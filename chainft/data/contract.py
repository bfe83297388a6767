"""The data contract: what is suspicious in whole splits, each finding with its place and a remedy.

Malformed rows are found while reading and labels that only an evaluation split has by the task; here are the
things that no single row shows: duplicates, leaks, conflicts, rare classes, odd characters, over-long examples.
Works on any task through its fields; those about labels are in `contract_labels`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from chainft.data.contract_labels import label_findings
from chainft.data.example import Example, Finding, Split
from chainft.data.joint import of_task
from chainft.data.load import Splits

if TYPE_CHECKING:
    from chainft.data.store import FeatureStore
    from chainft.tasks.base import Task

FEW = 10
"""Fewer training examples than this are hardly enough to learn anything."""
LONG_WORD = 150
"""Characters without a blank: no word of any language, but an address, a table or a picture as text."""

Key = tuple[str, ...]

_ODD = {
    "replacement-character": (re.compile("\ufffd"), "the replacement character U+FFFD: the text was decoded wrongly"),
    "mojibake": (
        re.compile("Ã[\u0080-\u00bf]|Â[\u00a0-\u00bf]|â(€|\x80)[\u0080-\u2122]?"),
        "letters such as 'Ã©': UTF-8 that was read as Latin-1",
    ),
    "control-character": (re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"), "control characters"),
    "zero-width": (re.compile("[\u200b\u2060\ufeff]"), "zero-width characters, which cut or join words unseen"),
}
_ODD_HELP = "mend the text, or check data.encoding"
_LONG_WORD = re.compile(rf"\S{{{LONG_WORD + 1}}}")


def check_contract(splits: Splits, task: Task, *, stores: Mapping[Split, FeatureStore] | None = None) -> list[Finding]:
    """All findings, errors first. `stores` (the tokenised splits) allow those about lengths."""
    windows = {split: np.diff(store.first_of) for split, store in (stores or {}).items()}
    if not task.has_own_data:
        findings = [finding for name in task.tasks for finding in _of_one(name, splits, task, windows)]
        findings += _rejected(splits)
    else:
        findings = [*_findings(splits, task, windows), *_rejected(splits)]
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])


def _findings(splits: Splits, task: Task, windows: Windows) -> list[Finding]:
    return [
        *task.contract(splits.examples),
        *label_findings(splits.examples, task),
        *_few(splits.examples),
        *_empty(splits.examples, task),
        *_duplicates(splits.examples, task),
        *_leaks(splits.examples, task),
        *_conflicts(splits.examples, task),
        *_odd_characters(splits.examples, task),
        *_long_words(splits.examples, task),
        *_long(splits.examples, windows, task),
    ]


def _of_one(name: str, splits: Splits, task: Task, windows: Windows) -> Iterator[Finding]:
    """What is found in the examples of one of several tasks, with its name."""
    examples = of_task(splits.examples, name)
    chosen = {split: [name in row.values for row in splits.examples[split]] for split in examples}
    own = {split: counts[chosen[split]] for split, counts in windows.items() if split in examples}
    for finding in _findings(replace(splits, examples=examples), task.tasks[name], own):
        yield replace(finding, message=f"{name}: {finding.message}")


Examples = Mapping[Split, Sequence[Example]]
Windows = Mapping[Split, np.ndarray]
"""(num_examples,) how many features each example became."""


def _empty(examples: Examples, task: Task) -> Iterator[Finding]:
    for split, rows in examples.items():
        empty = [row for row in rows if not any(part.strip() for part in _input(task, row))]
        if empty:
            yield Finding(
                "empty-example",
                "warning",
                f"{split}: {_count(empty, 'example')} without any text",
                empty[0].where(),
                "remove them",
                len(empty),
            )


def _duplicates(examples: Examples, task: Task) -> Iterator[Finding]:
    for split, rows in examples.items():
        first: dict[tuple[Key, Key], Example] = {}
        again = []
        for row in rows:
            key = (_input(task, row), _gold(task, row))
            if key in first:
                again.append((row, first[key]))
            else:
                first[key] = row
        if again:
            row, before = again[0]
            yield Finding(
                "duplicate",
                "warning" if split == "train" else "info",
                f"{split}: {_count(again, 'example')} that stand there already (the first repeats {before.where()})",
                row.where(),
                "remove repeated examples: they weigh more than others",
                len(again),
            )


def _leaks(examples: Examples, task: Task) -> Iterator[Finding]:
    places = {split: _first_places(rows, lambda row: _folded(_input(task, row))) for split, rows in examples.items()}
    for one, other in combinations(examples, 2):
        shared = [key for key in places[other] if key in places[one] and any(key)]
        if shared:
            yield Finding(
                "leak",
                "warning",
                f"{len(shared)} of {len(places[other])} different texts of {other} are also in {one} "
                f"(the first at {places[one][shared[0]].where()}): scores on {other} are too good",
                places[other][shared[0]].where(),
                f"remove them from {one}",
                len(shared),
            )


def _conflicts(examples: Examples, task: Task) -> Iterator[Finding]:
    if not any(field.gold and field.kind in ("label", "labels", "tags") for field in task.fields):
        return  # Several right answers to one prompt are no conflict.
    golds: dict[Key, dict[Key, Example]] = defaultdict(dict)
    for row in examples["train"]:
        golds[_input(task, row)].setdefault(_gold(task, row), row)
    conflicts = [list(rows.values()) for rows in golds.values() if len(rows) > 1]
    if conflicts:
        one, other = conflicts[0][:2]
        yield Finding(
            "conflicting-labels",
            "warning",
            f"train: {_count(conflicts, 'text')} with different labels (the first also at {other.where()})",
            one.where(),
            "decide for one label",
            len(conflicts),
        )


def _odd_characters(examples: Examples, task: Task) -> Iterator[Finding]:
    for slug, (pattern, words) in _ODD.items():
        yield from _matching(pattern, examples, task, slug=slug, severity="warning", words=words, help=_ODD_HELP)


def _long_words(examples: Examples, task: Task) -> Iterator[Finding]:
    words = f"words of more than {LONG_WORD} characters, which become many tokens"
    help = "shorten or remove them if they mean nothing to the task"
    yield from _matching(_LONG_WORD, examples, task, slug="long-word", severity="info", words=words, help=help)


def _matching(
    pattern: re.Pattern[str],
    examples: Examples,
    task: Task,
    *,
    slug: str,
    severity: Literal["warning", "info"],
    words: str,
    help: str,
) -> Iterator[Finding]:
    """A finding for each split with inputs in which the pattern is found; of words, at the line of the first."""
    for split, rows in examples.items():
        odd = [row for row in rows if any(pattern.search(part) for part in _input(task, row))]
        if odd:
            message = f"{split}: {_count(odd, 'example')} with {words}"
            yield Finding(slug, severity, message, _place(pattern, odd[0]), help, len(odd))


def _place(pattern: re.Pattern[str], row: Example) -> str:
    if row.lines is not None:
        for value in row.values.values():
            item = next((number for number, one in enumerate(value) if pattern.search(_text(one))), None)
            if item is not None and isinstance(value, list):
                return row.where(item)
    return row.where()


def _few(examples: Examples) -> Iterator[Finding]:
    train = examples["train"]
    if len(train) < FEW:
        message = f"train: only {_count(train, 'example')}"
        yield Finding("few-examples", "warning", message, train[0].where(), "add examples, or check the file")


def _long(examples: Examples, counts: Windows, task: Task) -> Iterator[Finding]:
    for split, windows in counts.items():
        empty = np.flatnonzero(windows == 0)
        if len(empty):
            message = f"{split}: {_count(empty, 'example')} without a token, from which nothing is learned"
            where = examples[split][int(empty[0])].where()
            yield Finding("no-tokens", "warning", message, where, "remove them", len(empty))
        several = np.flatnonzero(windows > 1)  # Features of an example may be something else than windows of it.
        long = [index for index in several if task.num_tokens(examples[split][int(index)]) > task.max_length]
        if long:
            yield Finding(
                "over-long",
                "info",
                f"{split}: {_count(long, 'example')} longer than {task.max_length} tokens, split into windows "
                f"(up to {int(windows[long].max())})",
                examples[split][int(long[0])].where(),
                count=len(long),
            )


def _rejected(splits: Splits) -> Iterator[Finding]:
    if splits.rejected:
        yield Finding(
            "rows-left-out",
            "warning",
            f"{_count(splits.rejected, 'malformed row')} left out (data.on_error=skip); the first: "
            f"{splits.rejected[0].message}",
            splits.rejected[0].where,
            count=len(splits.rejected),
        )


def _input(task: Task, row: Example) -> Key:
    """The values that are given, not asked for, as texts."""
    return tuple(_text(row.values.get(field.name)) for field in task.fields if not field.gold)


def _gold(task: Task, row: Example) -> Key:
    return tuple(_text(row.values.get(field.name)) for field in task.fields if field.gold)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return " ".join(value)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _folded(key: Key) -> Key:
    return tuple(" ".join(unicodedata.normalize("NFKC", part).casefold().split()) for part in key)


def _first_places(rows: Sequence[Example], key_of: Callable[[Example], Key]) -> dict[Key, Example]:
    places: dict[Key, Example] = {}
    for row in rows:
        places.setdefault(key_of(row), row)
    return places


def _count(items: Any, noun: str) -> str:
    return f"{len(items)} {noun}" if len(items) == 1 else f"{len(items)} {noun}s"

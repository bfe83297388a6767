"""What the labels of whole splits show: spellings that differ, labels that are rare, missing or all there is.

A label that only an evaluation split has is found before, by the task's `learn_labels`.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from chainft.data.card import label_counts
from chainft.data.example import Example, Finding, Split

if TYPE_CHECKING:
    from chainft.tasks.base import Task

RARE = 5
"""A class with fewer training examples is hardly learned."""
MAJORITY = 0.9
"""A class with a larger share makes accuracy look good by itself."""
SLIP_TIMES = 20
"""A label may be a slip of the pen for one so many times as frequent..."""
SLIP_LIKENESS = 0.85
"""... and so alike (ratio of `difflib`)."""

Examples = Mapping[Split, Sequence[Example]]


def label_findings(examples: Examples, task: Task) -> Iterator[Finding]:
    """All findings about labels, with the first place of each."""
    counts = {split: label_counts(task, rows) for split, rows in examples.items()}
    total = sum(counts.values(), Counter[str]())
    if not total:
        return
    places = first_places(examples, task)
    yield from _padded(total, places)
    yield from _variants(total, places)
    yield from _slips(total, places)
    train = counts["train"]
    yield from _missing(counts)
    yield from _rare(train, places)
    if train and any(field.gold and field.kind == "label" for field in task.fields):
        yield from _majority(train)


def first_places(examples: Examples, task: Task) -> dict[str, str]:
    """Where each label first stands; for tags the line of the word."""
    places: dict[str, str] = {}
    names = [field.name for field in task.fields if field.gold and field.kind in ("label", "labels", "tags")]
    by_item = {field.name for field in task.fields if field.kind == "tags"}
    for rows in examples.values():
        for row in rows:
            for name in names:
                value = row.values.get(name)
                for item, label in enumerate([value] if isinstance(value, str) else value or ()):
                    if label not in places:
                        places[label] = row.where(item if name in by_item else None)
    return places


def _padded(total: Counter[str], places: Mapping[str, str]) -> Iterator[Finding]:
    padded = sorted(label for label in total if label != label.strip())
    if padded:
        yield Finding(
            "label-with-blanks",
            "warning",
            f"labels that begin or end with blanks: {_some([f'{name!r} ({_times(total[name])})' for name in padded])}",
            places[padded[0]],
            f"write {padded[0].strip()!r} without blanks",
            len(padded),
        )


def _variants(total: Counter[str], places: Mapping[str, str]) -> Iterator[Finding]:
    """Labels that differ in case or blanks only."""
    same: dict[str, list[str]] = defaultdict(list)
    for label in sorted(total):
        same[" ".join(label.casefold().split())].append(label)
    for variants in same.values():
        if len(variants) > 1:
            told = ", ".join(f"{name!r} ({_times(total[name])})" for name in variants)
            yield Finding(
                "label-variants",
                "warning",
                f"labels that differ only in case or blanks: {told}",
                places[min(variants, key=lambda name: total[name])],
                f"write them all as {max(variants, key=lambda name: total[name])!r}",
            )


def _slips(total: Counter[str], places: Mapping[str, str]) -> Iterator[Finding]:
    """Rare labels that look like a frequent one."""
    for label, count in sorted(total.items()):
        often = [name for name in total if total[name] >= SLIP_TIMES * count and not _differ_rightly(label, name)]
        near = difflib.get_close_matches(label, sorted(often), n=1, cutoff=SLIP_LIKENESS)
        if near:
            yield Finding(
                "label-slip",
                "warning",
                f"label {label!r} ({_times(count)}) looks like {near[0]!r} ({_times(total[near[0]])})",
                places[label],
                f"write {near[0]!r} if that is meant",
                count,
            )


def _differ_rightly(label: str, other: str) -> bool:
    """Whether labels are the same but for case, blanks, digits or the prefix of a tag, which mean something."""
    one, two = (re.sub(r"^[A-Z]-|[\d\s]", "", name) for name in (label, other))
    return one.casefold() == two.casefold()


def _missing(counts: Mapping[Split, Counter[str]]) -> Iterator[Finding]:
    for split, found in counts.items():
        missing = sorted(label for label in counts["train"] if label not in found)
        if split != "train" and missing:
            them = "it" if len(missing) == 1 else "them"
            yield Finding(
                "label-not-in-split",
                "info",
                f"{split} has no example of {_some(missing)}: nothing will be known about {them} there",
                count=len(missing),
            )


def _rare(train: Counter[str], places: Mapping[str, str]) -> Iterator[Finding]:
    rare = sorted((label for label, count in train.items() if count < RARE), key=lambda label: (train[label], label))
    if rare:
        yield Finding(
            "rare-label",
            "warning",
            f"labels with fewer than {RARE} training examples: {_some([f'{name} ({train[name]})' for name in rare])}",
            places[rare[0]],
            "add examples, or join rare labels",
            len(rare),
        )


def _majority(train: Counter[str]) -> Iterator[Finding]:
    label, most = train.most_common(1)[0]
    if len(train) == 1:
        yield Finding(
            "one-label",
            "error",
            f"every training example has the same label {label!r}: nothing to learn",
            help="add examples of other labels, or check data.columns",
        )
    elif most / train.total() > MAJORITY:
        yield Finding(
            "majority-label",
            "warning",
            f"{most / train.total():.0%} of the training examples are {label!r}: always saying so has that accuracy",
            help="read f1_macro rather than accuracy, or set task.class_weights=balanced",
        )


def _times(count: int) -> str:
    return f"{count:,} time" if count == 1 else f"{count:,} times"


def _some(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

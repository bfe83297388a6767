"""What the data look like, for the report and `chainft check data`: counts, labels and lengths of each split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from chainft.data.example import Example, Finding, Split
from chainft.data.joint import of_task
from chainft.data.load import Splits

if TYPE_CHECKING:
    from chainft.data.store import FeatureStore
    from chainft.tasks.base import Task

NUM_BINS = 20


def data_card(
    splits: Splits, task: Task, findings: Iterable[Finding], stores: Mapping[Split, FeatureStore]
) -> dict[str, Any]:
    """The content of `data_card.json`."""
    cards = {}
    for split, examples in splits.examples.items():
        counts = label_counts(task, examples)
        card: dict[str, Any] = {
            "examples": len(examples),
            "labels": {name: counts[name] for name in sorted(counts, key=lambda name: (-counts[name], name))},
        }
        if split in stores:
            card["lengths"] = _histogram(whole_lengths(examples, stores[split], task))
            card["max_length"] = task.max_length
        cards[split] = card
    return {"splits": cards, "findings": [asdict(finding) for finding in findings]}


def whole_lengths(examples: Sequence[Example], store: FeatureStore, task: Task) -> np.ndarray:
    """(num_examples,) tokens of each example before it was cut into windows or at the model's limit."""
    windows = np.diff(store.first_of)
    lengths = np.bincount(store.example_of, weights=store.lengths, minlength=len(examples)).astype(np.int64)
    for index in np.flatnonzero((windows > 1) | (lengths >= task.max_length)):
        lengths[index] = task.num_tokens(examples[int(index)])
    return lengths


def label_counts(task: Task, examples: Sequence[Example]) -> Counter[str]:
    """How often each label occurs in the gold fields of the examples; of several tasks as `<task>/<label>`."""
    counts: Counter[str] = Counter()
    for name, one in ({} if task.has_own_data else task.tasks).items():
        own = label_counts(one, of_task({"train": examples}, name).get("train", []))
        counts.update({f"{name}/{label}": count for label, count in own.items()})
    for field in task.fields:
        if not field.gold or field.kind not in ("label", "labels", "tags"):
            continue
        for example in examples:
            value = example.values.get(field.name)
            if isinstance(value, str):
                counts[value] += 1
            elif value is not None:
                counts.update(value)
    return counts


def _histogram(lengths: np.ndarray) -> dict[str, list[int]]:
    """Whole-numbered bins over the lengths: `edges` has one entry more than `counts`."""
    if len(lengths) == 0:
        return {"edges": [0, 1], "counts": [0]}
    longest = int(lengths.max())
    width = max(1, -(-(longest + 1) // NUM_BINS))
    edges = list(range(0, longest + width + 1, width))
    counts, _ = np.histogram(lengths, bins=edges)
    return {"edges": edges, "counts": [int(count) for count in counts]}

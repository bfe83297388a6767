"""Neighbouring sentences of one document as context: what the model reads beside a sentence, and predicts nothing for.

As in FLERT (Schweter & Akbik 2020, arXiv:2011.06993, section 2): a sentence stands between the words before and after
it in its document. Each sentence has its own context, so that its features depend on the document alone and not on
what it is batched with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from chainft.data.example import Example
from chainft.errors import DataError

BEFORE, AFTER = "before", "after"
"""Values of an example: words of its document before and after it."""


def with_neighbours(examples: Sequence[Example], most: int) -> list[Example]:
    """The examples of one split in the order of their files, each with at most `most` words before and after it.

    A document is consecutive examples of one file with the same value `document`. Raises DataError where no example has
    one.
    """
    if examples and all("document" not in example.values for example in examples):
        raise DataError(
            "task.context = 'document', but nothing says where a document begins",
            slug="no-documents",
            where=examples[0].origin.file,
            key="task.context",
            help="CoNLL files have -DOCSTART- lines for that, tables a column: data.columns.document=COLUMN",
        )
    found: list[Example] = []
    for start, end in _documents(examples):
        words = [word for example in examples[start:end] for word in example.values["tokens"]]
        place = 0
        for example in examples[start:end]:
            after = place + len(example.values["tokens"])
            context = {BEFORE: words[max(0, place - most) : place], AFTER: words[after : after + most]}
            found.append(replace(example, values={**example.values, **context}))
            place = after
    return found


def context_room(lengths: np.ndarray, start: int, end: int, *, room: int, most: int) -> tuple[int, int]:
    """Which words go around the words `[start, end)`, as a longer stretch: whole words, `most` tokens a side at most.

    `lengths`: (words,) tokens of each word. `room`: tokens that are free; where both sides want more, each gets half
    and what the other leaves.

    >>> context_room(np.array([2, 2, 1, 3, 3]), 2, 3, room=7, most=4)
    (1, 4)
    """
    left, right = int(lengths[:start].sum()), int(lengths[end:].sum())
    left, right = min(left, most), min(right, most)
    if left + right > room:
        left = min(left, max(room // 2, room - right))
        right = min(right, room - left)
    begin, stop = start, end
    while begin > 0 and lengths[begin - 1 : start].sum() <= left:
        begin -= 1
    while stop < len(lengths) and lengths[end : stop + 1].sum() <= right:
        stop += 1
    return begin, stop


def _documents(examples: Sequence[Example]) -> list[tuple[int, int]]:
    """Start and end of each run of examples of one document; an example without `document` is one of its own."""
    keys = [(one.origin.file, one.values.get("document")) for one in examples]
    starts = [place for place, key in enumerate(keys) if place == 0 or key != keys[place - 1] or key[1] is None]
    return list(zip(starts, [*starts[1:], len(keys)], strict=True))

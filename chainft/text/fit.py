"""Makes over-long token sequences fit a model: windows that lose nothing, or a cut that says what it loses.

A sequence is described by its `sequence_ids`: for each token 0 (text), 1 (second text of a pair) or None (special
token), as tokenizers give them for the *uncut* text with its special tokens. Results are positions to keep.
"""

from __future__ import annotations

from collections.abc import Sequence

SequenceIds = Sequence[int | None]


def windows(sequence_ids: SequenceIds, *, limit: int, overlap: int) -> list[list[int]] | None:
    """Positions of each window of at most `limit` tokens: all special tokens, and a stretch of the longer text.

    Neighbours share `overlap` tokens (at most half of a window); the last window ends with the text. None when
    the shorter text of a pair leaves no room for the longer one.

    >>> windows([None, 0, 0, 0, 0, 0, None], limit=5, overlap=1)
    [[0, 1, 2, 3, 6], [0, 3, 4, 5, 6]]
    """
    if len(sequence_ids) <= limit:
        return [list(range(len(sequence_ids)))]
    longer = 1 if sequence_ids.count(1) > sequence_ids.count(0) else 0
    places = [position for position, part in enumerate(sequence_ids) if part == longer]
    size = limit - (len(sequence_ids) - len(places))
    if size < 1:
        return None
    stride = size - min(overlap, size // 2)
    starts = [*range(0, len(places) - size, stride), len(places) - size]
    return [_keep(sequence_ids, longer, places[start], places[start + size - 1]) for start in starts]


def truncated(sequence_ids: SequenceIds, *, limit: int) -> list[int]:
    """Positions of the beginning that fits; of a pair, the longer text gives way first.

    >>> truncated([None, 0, 0, 0, None, 1, None], limit=6)
    [0, 1, 2, 4, 5, 6]
    """
    sizes = [sequence_ids.count(0), sequence_ids.count(1)]
    room = max(limit - sequence_ids.count(None), 0)
    first = min(sizes[0], max(room - sizes[1], room - room // 2))
    left = [first, min(sizes[1], room - first)]
    kept = []
    for position, part in enumerate(sequence_ids):
        if part is not None:
            left[part] -= 1
        if part is None or left[part] >= 0:
            kept.append(position)
    return kept


def _keep(sequence_ids: SequenceIds, part: int, first: int, last: int) -> list[int]:
    return [position for position, one in enumerate(sequence_ids) if one != part or first <= position <= last]

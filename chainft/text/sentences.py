"""Sentences of a text, by rule: what the metrics and baselines of summaries count in."""

from __future__ import annotations

import re

_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+(?=[\"'“‘«(\[]*[^\W_a-z])|(?<=[。！？])\s*(?=\S)|\s*\n\s*")
"""After a full stop and blanks, unless a small letter follows; after one of East Asian writing; at a line end."""
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[])(?:[A-ZÀ-Þ]|(?:[^\W\d_]\.)+[^\W\d_]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|Nr|vs|etc|al|Fig|Eq|approx|Inc|Ltd|Co"
    r"|ca|bzw|usw|evtl|Abb|Str)\.$"
)
"""What ends in a full stop without ending a sentence: an initial, `e.g.`, a title."""


def sentences(text: str) -> list[str]:
    """The sentences of a text without blanks around them; none of a text of blanks.

    >>> sentences("Dr. Ada met J. Bloom. They left at 5 p.m. in the rain! Why?")
    ['Dr. Ada met J. Bloom.', 'They left at 5 p.m. in the rain!', 'Why?']
    """
    found: list[str] = []
    start = 0
    for end in _END.finditer(text):
        part = text[start : end.end()].strip()
        if "\n" not in end.group() and _ABBREVIATION.search(part):
            continue
        found.append(part)
        start = end.end()
    found.append(text[start:].strip())
    return [one for one in found if one]

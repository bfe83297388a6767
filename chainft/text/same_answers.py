"""When two answers count as the same: exact match and F1 of SQuAD, and how answers are compared in Chinese and its like.

SQuAD (Rajpurkar et al. 2016, section 6.1): case, ASCII punctuation and the articles a, an, the are left out, words are
what blanks separate. Texts in scripts without spaces as in MLQA (Lewis et al. 2020, arXiv:1910.07475) and CMRC 2018
(Cui et al. 2019): case and all Unicode punctuation are left out, and each such character is a word of its own.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from chainft.text.scripts import units

Units = Literal["words", "characters"]
"""What is compared: words, or characters of scripts without spaces (and words of others)."""

_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def parts_of(answer: str, compared: Units) -> list[str]:
    """What of an answer is compared, in order.

    >>> parts_of("The U.S. Army,", "words"), parts_of("《权力》(2011)", "characters")
    (['us', 'army'], ['权', '力', '2011'])
    """
    lowered = answer.lower()
    if compared == "words":
        return _ARTICLES.sub(" ", lowered.translate(_ASCII_PUNCTUATION)).split()
    return units("".join(one for one in lowered if not _is_punctuation(one)))


def exact(gold: str, predicted: str, compared: Units) -> bool:
    """Whether two answers are the same in what is compared."""
    return parts_of(gold, compared) == parts_of(predicted, compared)


def overlap(gold: str, predicted: str, compared: Units) -> float:
    """F1 of the words that two answers have in common, as often as they have them; of nothing and nothing 1.

    >>> overlap("the Denver Broncos", "Broncos of Denver", "words")
    0.8
    """
    wanted, given = parts_of(gold, compared), parts_of(predicted, compared)
    if not wanted or not given:
        return float(wanted == given)
    common = (Counter(wanted) & Counter(given)).total()
    return 2 * common / (len(wanted) + len(given))


def best_of(golds: Sequence[str], predicted: str, compared: Units) -> tuple[float, float]:
    """Exact match and F1 against the gold answer for which each is greatest.

    As in SQuAD 2.0, a question without a gold answer (or whose gold answers hold nothing that is compared) wants "".
    """
    wanted = [gold for gold in golds if parts_of(gold, compared)] or [""]
    return (
        float(max(exact(gold, predicted, compared) for gold in wanted)),
        max(overlap(gold, predicted, compared) for gold in wanted),
    )


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")

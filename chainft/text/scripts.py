"""Scripts that write no spaces between words, such as Chinese: there a character stands where others have a word."""

from __future__ import annotations

import re
import unicodedata

_CLASS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Japanese kana and signs
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
_SPACELESS = re.compile(f"[{_CLASS}]")
_WORD = re.compile(rf"[{_CLASS}]|[^\W{_CLASS}]+")
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff]")
SHARE = 0.3
"""A text is written in such a script where so much of its words are characters of one: Chinese texts hold foreign names
and numbers, while a text in another language hardly quotes as much."""


def is_spaceless(text: str) -> bool:
    """Whether a text is written without spaces between its words.

    >>> is_spaceless("《权力》由 HBO 播出"), is_spaceless("The word 茶 means tea.")
    (True, False)
    """
    if text.isascii():
        return False
    found = _WORD.findall(text)
    return bool(found) and len(_SPACELESS.findall(text)) >= SHARE * len(found)


def units(text: str) -> list[str]:
    """Characters of spaceless scripts, each with its marks, one by one; between them what blanks separate.

    The mixed segmentation of MLQA (Lewis et al. 2020, arXiv:1910.07475) and of CMRC 2018, for all such scripts.

    >>> units("于1897年在 New York")
    ['于', '1897', '年', '在', 'New', 'York']
    """
    found: list[str] = []
    goes_on = False
    """Whether the next character joins the last unit; after a blank or a spaceless character, only a mark does."""
    for character in text:
        if goes_on is False and found and _is_mark(character):
            found[-1] += character
        elif _SPACELESS.match(character):
            found.append(character)
            goes_on = False
        elif character.isspace():
            goes_on = False
        elif goes_on:
            found[-1] += character
        else:
            found.append(character)
            goes_on = True
    return found


def words(text: str) -> list[tuple[int, int]]:
    """Start and end of each word, and of each character of spaceless scripts; punctuation is none.

    >>> [("Oslo, 奥斯陆 1960s"[start:end]) for start, end in words("Oslo, 奥斯陆 1960s")]
    ['Oslo', '奥', '斯', '陆', '1960s']
    """
    return [found.span() for found in _WORD.finditer(text)]


def joins(text: str, place: int) -> bool:
    """Whether the characters before and at `place` belong to one word, so that no stretch of words begins or ends there.

    Never so in scripts without spaces, nor in Korean, whose particles are written onto their words.

    >>> joins("Oslo, 1960s", 2), joins("Oslo, 1960s", 4), joins("Oslo, 1960s", 10), joins("奥斯陆", 1)
    (True, False, True, False)
    """
    if not 0 < place < len(text):
        return False
    left, right = text[place - 1], text[place]
    if right.isascii():
        return right.isalnum() and ((left.isalnum() and not _is_apart(left)) or _is_mark(left))
    if _is_mark(right):
        return True
    return right.isalnum() and (left.isalnum() or _is_mark(left)) and not (_is_apart(left) or _is_apart(right))


def _is_apart(character: str) -> bool:
    return not character.isascii() and bool(_SPACELESS.match(character) or _HANGUL.match(character))


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")

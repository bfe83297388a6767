"""A folder of texts to look things up in: passages with their places, and how they are put before a question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chainft.data.files import Line, read_lines
from chainft.errors import ConfigError, DataError
from chainft.text.bm25 import BM25, words_of

ENDINGS = (".txt", ".md")
MOST_WORDS = 80
"""Paragraphs that follow each other are one passage up to so many words; a longer paragraph is a passage by itself."""
DEFAULT_COUNT = 3
_BEFORE, _AFTER = "Answer with the help of these passages.", "Question: "


@dataclass(frozen=True)
class Passage:
    """A stretch of a file."""

    file: str
    """Below the folder."""
    first: int
    last: int
    """Lines, from 1."""
    text: str

    @property
    def place(self) -> str:
        """`hours.md:3-7`."""
        return f"{self.file}:{self.first}-{self.last}"


class Documents:
    """The passages of a folder, found by BM25. Deterministic: files by name, passages in order."""

    def __init__(self, folder: Path, *, key: str) -> None:
        """Raises ConfigError at `key` for a folder that is none or holds no text, DataError for what is no text."""
        if not folder.is_dir():
            kind = "is no folder" if folder.exists() else "does not exist"
            raise ConfigError(
                f"{key}: {str(folder)!r} {kind}", slug="no-folder", key=key, help="name a folder of texts"
            )
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
        self.passages = [one for path in files for one in _passages_of(path, path.relative_to(folder).as_posix(), key)]
        if not self.passages:
            there = f"{len(files)} files without any word" if files else f"no file that ends in {' or '.join(ENDINGS)}"
            raise ConfigError(f"{key}: the folder {str(folder)!r} holds {there}", slug="no-documents", key=key)
        self._index = BM25([one.text for one in self.passages])

    def find(self, question: str, count: int) -> list[Passage]:
        """The passages that match best, best first; none where no word of the question occurs."""
        return [self.passages[number] for number, _ in self._index.search(question, count)]


def with_passages(question: str, passages: Sequence[Passage]) -> str:
    """A user's turn with what was found before it; the question alone where there is nothing.

    >>> print(with_passages("When?", [Passage("hours.md", 1, 2, "Nine to five.")]))
    Answer with the help of these passages.
    [1] hours.md:1-2
    Nine to five.
    <BLANKLINE>
    Question: When?
    """
    if not passages:
        return question
    shown = [f"[{number}] {one.place}\n{one.text}\n\n" for number, one in enumerate(passages, start=1)]
    return f"{_BEFORE}\n{''.join(shown)}{_AFTER}{question}"


def _passages_of(path: Path, name: str, key: str) -> Iterator[Passage]:
    """Paragraphs, small neighbours together; a heading (`# ...`) begins a passage."""
    group: list[list[Line]] = []
    for paragraph in _paragraphs(read_lines(str(path), key=key)):
        is_full = sum(map(_count, group)) + _count(paragraph) > MOST_WORDS
        is_only_heading = len(group) == 1 and len(group[0]) == 1 and _is_heading(group[0][0])
        if group and not is_only_heading and (is_full or _is_heading(paragraph[0])):
            yield _passage(name, group)
            group = []
        group.append(paragraph)
    if group:
        yield _passage(name, group)


def _paragraphs(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lines between blank ones."""
    current: list[Line] = []
    for line in lines:
        if line.problem is not None:
            raise DataError.of([line.problem])
        if line.text.strip():
            current.append(line)
        elif current:
            yield current
            current = []
    if current:
        yield current


def _passage(name: str, group: Sequence[Sequence[Line]]) -> Passage:
    text = "\n\n".join("\n".join(line.text.strip() for line in paragraph) for paragraph in group)
    return Passage(name, group[0][0].number, group[-1][-1].number, text)


def _count(paragraph: Sequence[Line]) -> int:
    return sum(len(words_of(line.text)) for line in paragraph)


def _is_heading(line: Line) -> bool:
    return line.text.lstrip().startswith("#")

"""Settings of `task=control`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from chainft.config.no_effect import no_effect
from chainft.config.ranges import Count
from chainft.errors import Problem
from chainft.tasks._generation_settings import TextToTextConfig
from chainft.text.meanings import MeaningError, read_meaning

DEFAULT_CANDIDATES = 5


@dataclass(frozen=True, kw_only=True)
class ControlConfig(TextToTextConfig):
    """Texts that say a meaning or have attributes."""

    name: str = "control"
    attributes: tuple[str, ...] = ()
    """Columns that say how the text is to be, such as [sentiment, length]; with them, meanings may be absent."""
    control: Literal["template", "codes"] = "template"
    """How the model is told: template: words, `name: The Eagle; food: French`; codes: `<name> The Eagle <food> French`
    without instruction, as CTRL (Keskar et al., 2019) has it; the codes are plain text, so no embedding is added."""
    slot_order: Literal["given", "sorted", "shuffled"] = "given"
    """Order of the slots: as in the data, by name, or mixed, each meaning always in the same way."""
    require_values: bool = False
    """Write several candidates and take the one with the fewest slot errors, the likeliest of equals."""
    num_candidates: Count | None = None
    """With `require_values`: how many; default: task.num_beams, or 5 draws."""
    forbidden: tuple[str, ...] = ()
    """Words that are never written; rows of tokens that begin as one does are not, either."""
    phrases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """How values are put in words, for the slot error rate: {"familyFriendly[yes]": [family friendly, for kids]}.
    Those of E2E are known; an entry here replaces that of the same value."""

    @property
    def candidates(self) -> int:
        """Answers that are written for each one that is given."""
        if not self.require_values:
            return 1
        return self.num_candidates or (DEFAULT_CANDIDATES if self.do_sample else self.num_beams)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.num_candidates is not None and not self.require_values:
            because, help = "one answer is written", "set task.require_values=true as well"
            yield no_effect("task.num_candidates", self.num_candidates, because, help)
        if self.require_values and self.candidates == 1:
            because, help = "there is one candidate to choose from", "set task.num_beams=5, or task.do_sample=true"
            yield no_effect("task.require_values", True, because, help)
        elif self.require_values and not self.do_sample and self.candidates > self.num_beams:
            message = f"task.num_candidates = {self.candidates}, but there are {self.num_beams} beams"
            help = f"set task.num_beams={self.candidates} or more, or task.do_sample=true"
            yield Problem("contradiction", message, key="task.num_candidates", help=help)
        if self.require_values and self.num_return_sequences > self.candidates:
            message = f"task.num_return_sequences = {self.num_return_sequences} of {self.candidates} candidates"
            yield Problem("contradiction", message, key="task.num_return_sequences", help="raise task.num_candidates")
        yield from self._names()

    def _names(self) -> Iterator[Problem]:
        for name in self.attributes:
            if name in ("meaning", "text", "prefix") or self.attributes.count(name) > 1:
                message = f"task.attributes has {name!r}, which is " + (
                    "there twice" if self.attributes.count(name) > 1 else "a column of the task itself"
                )
                yield Problem("same-name", message, key="task.attributes", help="name each column of attributes once")
        for word in self.forbidden:
            if not word.strip():
                yield Problem("empty-word", f"task.forbidden has {word!r}, which is no word", key="task.forbidden")
        for key, texts in self.phrases.items():
            problem = _wrong_phrase(key, texts)
            if problem:
                yield Problem("broken-phrase", f"task.phrases: {problem}", key="task.phrases")


def _wrong_phrase(key: str, texts: tuple[str, ...]) -> str | None:
    try:
        pairs = read_meaning(key)
    except MeaningError as error:
        return f"{key!r} is no slot[value]: {error}"
    if len(pairs) != 1:
        return f"{key!r} has {len(pairs)} slots, one is wanted"
    if not texts or not all(any(one.isalnum() for one in text) for text in texts):
        return f"{key!r} needs phrasings with words"
    return None

"""Slot error rate: slots that texts leave out or say beside their meaning, per slot of the meaning.

ERR = (p + q) / N with p missing and q redundant slots of N: T.-H. Wen et al., "Semantically Conditioned LSTM-based
Natural Language Generation for Spoken Dialogue Systems", EMNLP 2015, section 5.1. How a slot is judged stands in
`chainft.text.slot_errors`; slots that cannot be judged are counted apart and are not in N.
"""

from __future__ import annotations

from collections import Counter
from typing import ClassVar, Literal, TypedDict

from chainft.metrics.base import ratio
from chainft.tasks.base import Metric, Scores, Table
from chainft.text.meanings import Meaning
from chainft.text.phrasings import PHRASINGS
from chainft.text.slot_errors import Lexicon, slot_key


class Realisation(TypedDict):
    """What a text is to say, and the texts that say it."""

    meaning: Meaning
    references: list[str]


class SlotErrors(Metric):
    """Counts by slot, in constant memory."""

    family: ClassVar[Literal["realisation"]] = "realisation"

    def __init__(self) -> None:
        self.lexicon = Lexicon(PHRASINGS)
        """How values are put in words; a task may know more."""
        self._names: dict[str, str] = {}
        """How each slot is written."""
        self._said: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._redundant: Counter[str] = Counter()
        self._unjudged: Counter[str] = Counter()
        self._texts = 0
        self._wrong = 0

    def update(self, gold: Realisation, predicted: str) -> None:
        judged = self.lexicon.judge(gold["meaning"], predicted)
        self._names |= {slot_key(slot): slot for slot, _ in gold["meaning"]}
        for counter, found in (
            (self._said, judged.said),
            (self._missing, judged.missing),
            (self._unjudged, judged.unjudged),
        ):
            counter.update(slot_key(one.partition("[")[0]) for one in found)
        self._redundant.update(one.partition(": ")[0] for one in judged.redundant)
        self._texts += 1
        self._wrong += judged.errors > 0

    def compute(self) -> Scores:
        wanted = self._said.total() + self._missing.total()
        errors = self._missing.total() + self._redundant.total()
        values = {
            "slot_error_rate": ratio(errors, wanted),
            "text_error_rate": ratio(self._wrong, self._texts),
        }
        slots = sorted(self._said | self._missing | self._redundant | self._unjudged)
        note = (
            f"Of {self._texts} texts: slots that their meanings have, that the texts leave out, that they say beside, "
            f"and {self._unjudged.total()} that could not be judged (task.phrases may say how they are put in words)."
        )
        table = Table(
            "slots",
            ("slot", "wanted", "missing", "redundant", "not judged", "error rate"),
            tuple(map(self._row, slots)),
            note,
        )
        return Scores(
            values,
            tables=(table,) if slots else (),
            meanings={
                "slot_error_rate": "slots left out or made up, per slot that is wanted; less is better",
                "text_error_rate": "share of texts with a slot error; less is better",
            },
        )

    def _row(self, slot: str) -> tuple[str | float | int | None, ...]:
        missing, redundant = self._missing[slot], self._redundant[slot]
        wanted = self._said[slot] + missing
        rate = (missing + redundant) / wanted if wanted else None
        return (self._names.get(slot, slot), wanted, missing, redundant, self._unjudged[slot], rate)


PLUGIN = SlotErrors

"""chrF2 of a corpus as sacreBLEU computes it (M. Popović, "chrF", WMT 2015)."""

from __future__ import annotations

from typing import Any, ClassVar

from chainft.metrics._sacrebleu import SacreBleu


class Chrf(SacreBleu):
    """n-grams of characters in common; recall weighs twice as much as precision."""

    name: ClassVar[str] = "chrf"
    words: ClassVar[str] = "overlap with the right translations in short rows of characters"

    def make(self) -> Any:
        from sacrebleu.metrics.chrf import CHRF

        return CHRF()


PLUGIN = Chrf

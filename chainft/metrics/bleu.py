"""BLEU of a corpus as sacreBLEU computes it (K. Papineni et al., "BLEU", ACL 2002)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from chainft.metrics._sacrebleu import SacreBleu

if TYPE_CHECKING:
    from chainft.tasks._text_to_text import TextToText


class Bleu(SacreBleu):
    """n-grams of words in common, with a penalty for short answers."""

    name: ClassVar[str] = "bleu"
    words: ClassVar[str] = "overlap with the right translations in rows of 1 to 4 words"

    def __init__(self) -> None:
        super().__init__()
        self.tokenize: str | None = None
        """The package's tokenizer; None: its default."""

    def fit(self, task: TextToText) -> None:
        """A task may say how words are told apart: `bleu_tokenizer`."""
        self.tokenize = getattr(task, "bleu_tokenizer", None)

    def make(self) -> Any:
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(tokenize=self.tokenize)


PLUGIN = Bleu

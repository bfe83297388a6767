"""`augment=back_translate`: texts go into another language and back, by two trained runs; the label stays.

Sennrich et al. 2016; the way back is drawn instead of searched, which brings more variety (Edunov et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from chainft.augmentations._writers import answers, drawing, load_writer, plain
from chainft.augmentations.base import (
    Augmentation,
    AugmentationConfig,
    Made,
    Progress,
    drawn_field,
    text_fields,
    unfit,
)
from chainft.config.ranges import Count, Positive
from chainft.data.example import Example
from chainft.errors import ConfigError

if TYPE_CHECKING:
    from chainft.infer.trained import Trained
    from chainft.tasks.base import Task

_STRETCH = 16
"""How many batches of texts are translated there before they are translated back."""


@dataclass(frozen=True, kw_only=True)
class BackTranslateConfig(AugmentationConfig):
    """Texts are translated there and back."""

    name: str = "back_translate"
    there: str
    """Folder of a run of task translate, from the language of the texts into another."""
    back: str
    """Folder of a run of task translate from that language back."""
    temperature: Positive = 0.8
    """How freely the way back is drawn; less: closer to the likeliest."""
    batch_size: Count = 16
    """Texts in one pass."""


class BackTranslate(Augmentation):
    """One text of each example is reworded; of a pair of texts, one or the other."""

    config_class: ClassVar[type[AugmentationConfig]] = BackTranslateConfig
    uses_models: ClassVar[bool] = True
    config: BackTranslateConfig

    def __init__(self, config: AugmentationConfig, task: Task) -> None:
        super().__init__(config, task)
        self._fields = text_fields(task)
        if not self._fields:
            because = "their answers stand in the texts, and would be lost"
            raise unfit(
                config, task, because, "it serves tasks with labels, such as classify; for ner take augment=mix"
            )

    def make(self, examples: Sequence[Example], *, progress: Progress) -> Iterator[Made]:
        there, back = (load_writer(run, key=f"augment.{key}") for key, run in self._runs.items())
        _check_languages(there, back)
        plain(there)
        drawing(back, count=self.config.num_copies, temperature=self.config.temperature, seed=self.config.seed)
        size = self.config.batch_size
        for start in range(0, len(examples), size * _STRETCH):
            stretch = examples[start : start + size * _STRETCH]
            chosen = [(one, self._field(start + number, one)) for number, one in enumerate(stretch)]
            chosen = [(one, field) for one, field in chosen if str(one.values[field]).strip()]
            read = [there.task.read_input(one.values[field], where=one.where()) for one, field in chosen]
            foreign = [found[0] if found else "" for found in answers(there, read, batch_size=size)]
            kept = [(pair, text) for pair, text in zip(chosen, foreign, strict=True) if text]
            again = [back.task.read_input(text, where=one.where()) for (one, _), text in kept]
            for ((one, field), text), found in zip(kept, answers(back, again, batch_size=size), strict=True):
                for new in found:
                    facts = {"field": field, "by_way_of": text}
                    yield Made({**one.values, field: new}, one, facts)
            progress(min(start + len(stretch), len(examples)), len(examples))

    @property
    def _runs(self) -> dict[str, str]:
        return {"there": self.config.there, "back": self.config.back}

    def _field(self, number: int, example: Example) -> str:
        """The text that is reworded."""
        return drawn_field(self._fields, example, self.random(number, 0))


def _check_languages(there: Trained, back: Trained) -> None:
    first, second = (_languages(one) for one in (there, back))
    if first is not None and second is not None and first != second[::-1]:
        raise ConfigError(
            f"augment.there translates from {first[0]} into {first[1]}, augment.back from {second[0]} into {second[1]}",
            slug="contradiction",
            key="augment.back",
            help=f"name a run that translates from {first[1]} into {first[0]}",
        )


def _languages(trained: Trained) -> tuple[str, str] | None:
    config: Any = trained.task.config
    return (config.source_lang, config.target_lang) if hasattr(config, "source_lang") else None


PLUGIN = BackTranslate

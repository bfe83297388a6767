"""`augment=by_label`: a run that writes texts is asked for texts of each label; a classifier may sort out the wrong ones.

Generation by label with a filter, as LAMBADA does it (Anaby-Tavor et al. 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from chainft.augmentations._writers import answers, drawing, load_writer
from chainft.augmentations.base import Augmentation, AugmentationConfig, Made, Progress, text_fields, unfit
from chainft.config.ranges import Fraction, Positive
from chainft.data.example import Example
from chainft.errors import ConfigError

if TYPE_CHECKING:
    from chainft.infer.trained import Trained
    from chainft.tasks.base import Task

_AT_ONCE = 8
"""Answers that are drawn for a prompt in one pass."""
_PLACE = "{label}"


@dataclass(frozen=True, kw_only=True)
class ByLabelConfig(AugmentationConfig):
    """Texts are written for each label; `num_copies` for each."""

    name: str = "by_label"
    run: str
    """Folder of a run whose task writes texts: best one that was trained to write them from such prompts."""
    prompt: str = "Write a text with the label {label}."
    """What the run is asked; {label} is the label, its underscores as spaces."""
    temperature: Positive = 1.0
    """How freely texts are drawn."""
    filter: str | None = None
    """Folder of a run of task classify: of the texts, only those stay that it gives the same label."""
    min_score: Fraction | None = None
    """With `filter`: the least probability that it must give; default: any, where the label is the likeliest."""


class ByLabel(Augmentation):
    """Asks for each label in turn, most frequent first."""

    config_class: ClassVar[type[AugmentationConfig]] = ByLabelConfig
    uses_models: ClassVar[bool] = True
    config: ByLabelConfig

    def __init__(self, config: AugmentationConfig, task: Task) -> None:
        super().__init__(config, task)
        kinds = {field.name: field.kind for field in task.fields if field.gold}
        if kinds != {"label": "label"} or "text" not in text_fields(task):
            raise unfit(config, task, "they have not one label a text", "it serves classify with one label")
        if _PLACE not in self.config.prompt:
            raise ConfigError(
                f"augment.prompt = {self.config.prompt!r} has no {_PLACE}",
                slug="no-place",
                key="augment.prompt",
                help=f"such as {ByLabelConfig.prompt!r}",
            )
        if self.config.min_score is not None and self.config.filter is None:
            raise ConfigError(
                f"augment.min_score = {self.config.min_score} has no effect: nothing gives a score",
                slug="no-effect",
                key="augment.min_score",
                help="set augment.filter as well",
            )

    def make(self, examples: Sequence[Example], *, progress: Progress) -> Iterator[Made]:
        writer = load_writer(self.config.run, key="augment.run")
        judge = self._judge()
        labels = sorted({example.values["label"] for example in examples})
        for number, label in enumerate(labels):
            prompt = self.config.prompt.replace(_PLACE, label.replace("_", " "))
            texts = list(self._texts(writer, prompt, number))
            for text, score in self._right(judge, texts, label) if judge else ((text, None) for text in texts):
                facts = {"label": label, "prompt": prompt} | ({} if score is None else {"score": score})
                yield Made({"text": text, "label": label}, None, facts)
            progress(number + 1, len(labels))

    def _texts(self, writer: Trained, prompt: str, number: int) -> Iterator[str]:
        """So many drawn texts, in passes of a few."""
        asked = [writer.task.read_input(prompt, where="augment.prompt")]
        for start in range(0, self.config.num_copies, _AT_ONCE):
            count = min(_AT_ONCE, self.config.num_copies - start)
            seed = int(self.random(number, start).integers(2**31))
            drawing(writer, count=count, temperature=self.config.temperature, seed=seed)
            yield from next(answers(writer, asked, batch_size=1))

    def _judge(self) -> Trained | None:
        if self.config.filter is None:
            return None
        from chainft.infer.trained import load_run

        judge = load_run(Path(self.config.filter))
        if "label" not in {field.name for field in judge.task.fields}:
            raise ConfigError(
                f"{self.config.filter!r} is a run of task {judge.task.config.name!r}, which gives no label",
                slug="wrong-run",
                key="augment.filter",
                help="name the folder of a run of task classify",
            )
        return judge

    def _right(self, judge: Trained, texts: Sequence[str], label: str) -> Iterator[tuple[str, float]]:
        from chainft.infer.predict import make_engine

        read = [judge.task.read_input(text, where="augment.run") for text in texts]
        for text, one in zip(texts, make_engine(judge, batch_size=32).predict(iter(read)), strict=True):
            score = float(one.prediction["score"])
            if one.prediction["label"] == label and score >= (self.config.min_score or 0.0):
                yield text, score


PLUGIN = ByLabel

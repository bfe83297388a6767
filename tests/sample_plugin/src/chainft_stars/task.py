"""How many stars a text gives: each number of stars is a class, and the answer is the expected number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from chainft.config.ranges import Count
from chainft.config.run import TaskConfig
from chainft.data.example import Example
from chainft.errors import Problem
from chainft.metrics.base import make_metrics
from chainft.tasks.base import About, Arrays, Baseline, Metric, Mistake, Prediction
from chainft.tasks.classify import ClassifyConfig, SingleLabel
from chainft.text import classes


@dataclass(frozen=True, kw_only=True)
class StarsConfig(ClassifyConfig):
    """How many stars a text gives."""

    name: str = "stars"
    most: Count = 5
    """The most stars that there are."""


class Stars(SingleLabel):
    config_class: ClassVar[type[TaskConfig]] = StarsConfig
    config: StarsConfig
    main_metric: ClassVar[str] = "stars_error"
    metric_family: ClassVar[str] = "number"
    about: ClassVar[About] = About("Star ratings", purpose="rates texts by stars", sample="Good, but far too small.")

    def validate(self, example: Example) -> Any:
        yield from classes.check_texts(example)
        label = example.values.get("label", "1")
        if label not in map(str, range(1, self.config.most + 1)):
            message = f"{label!r} is no number of stars from 1 to {self.config.most}"
            yield Problem("no-stars", message, example.where(), help="raise task.most, or mend the row")

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        shares: Mapping[str, float] = super().decode(example, windows, raw)["scores"]
        stars = sum(int(label) * share for label, share in shares.items())
        return {"text": example.values["text"], "stars": stars, "scores": shares}

    def gold(self, example: Example) -> Any:
        return float(example.values["label"])

    def predicted(self, prediction: Prediction) -> Any:
        return float(prediction["stars"])

    def metrics(self) -> list[Metric]:
        return make_metrics(("stars_error",), self.metric_family)

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        mean = sum(self.gold(example) for example in train) / len(train)
        return {"mean": lambda example: mean}

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        wrong = abs(self.gold(example) - prediction["stars"])
        shown = f"{prediction['stars']:.1f}"
        return Mistake(wrong, example.values["text"], example.values["label"], shown) if wrong > 0.5 else None

"""A small task for the data layer's tests: one text, one label, one token a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from chainft.config.run import TaskConfig
from chainft.data.example import Example, Origin
from chainft.errors import Problem
from chainft.tasks.base import Arrays, Column, Field, Labels, Metric, Mistake, Prediction, Task


class FakeTokenizer:
    """What the store asks of a tokenizer."""

    special_tokens_map: Mapping[str, str] = {"pad_token": "[PAD]"}
    padding_side = "right"
    pad_token_id = 0

    def __init__(self, name: str = "words") -> None:
        self.name = name

    @property
    def backend_tokenizer(self) -> FakeTokenizer:
        return self

    def to_str(self) -> str:
        return self.name


class WordTask(Task):
    """Classifies texts; every three words are a window."""

    config_class = TaskConfig
    fields = (Field("text", "text", aliases=("sentence",)), Field("label", "label", aliases=("class",), gold=True))
    features = {  # noqa: RUF012
        "input_ids": Column(pad="pad_token", model_input=True),
        "labels": Column(pad=-100, axis=None),
    }
    auto_class = "AutoModel"
    main_metric = "accuracy"
    metric_family = "label"

    def validate(self, example: Example) -> Iterator[Problem]:
        if example.values["label"] == "forbidden":
            yield Problem("forbidden", "the label 'forbidden' is forbidden", example.where())

    def learn_labels(self, splits: Any, *, unseen: Any) -> None:
        self.labels = Labels(tuple(sorted({example.values["label"] for example in splits["train"]})))

    def stratum(self, example: Example) -> str:
        return str(example.values["label"])

    def encode(self, example: Example) -> list[Arrays]:
        ids = [len(word) for word in example.values["text"].split()]
        label = np.array([len(example.values["label"])], dtype=np.int32)
        return [
            {"input_ids": np.array(ids[start : start + 3], dtype=np.int32), "labels": label}
            for start in range(0, len(ids), 3)
        ]

    def loss(self, output: Any, batch: Any) -> Any:
        raise NotImplementedError

    def num_targets(self, batch: Any) -> float:
        raise NotImplementedError

    def raw(self, output: Any, batch: Any) -> Sequence[Any]:
        raise NotImplementedError

    def decode(self, example: Example, windows: Any, raw: Any) -> Prediction:
        raise NotImplementedError

    def read_input(self, value: Any, *, where: str) -> Example:
        raise NotImplementedError

    def gold(self, example: Example) -> Any:
        return example.values["label"]

    def predicted(self, prediction: Prediction) -> Any:
        raise NotImplementedError

    def metrics(self) -> list[Metric]:
        return []

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        return None


MakeTask = Callable[..., WordTask]


@pytest.fixture
def word_task() -> MakeTask:
    """Makes the task, with a tokenizer of the given name and a length limit."""

    def make(tokenizer: str = "words", max_length: int = 3) -> WordTask:
        task = WordTask(TaskConfig(name="words"))
        task.prepare(FakeTokenizer(tokenizer), max_length=max_length)  # type: ignore[arg-type]
        return task

    return make


@pytest.fixture
def examples() -> Callable[..., list[Example]]:
    """Makes examples of (text, label) pairs, one a line of a file."""

    def make(*pairs: tuple[str, str], file: str = "train.csv") -> list[Example]:
        return [
            Example({"text": text, "label": label}, Origin(file, line)) for line, (text, label) in enumerate(pairs, 2)
        ]

    return make

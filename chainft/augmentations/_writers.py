"""Runs that write texts, as parts of an augmentation: loads one and lets it draw several answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainft.data.example import Example
from chainft.errors import ConfigError

if TYPE_CHECKING:
    from chainft.infer.trained import Trained


def load_writer(run: str, *, key: str) -> Trained:
    """The model of a run whose task writes texts. Raises ConfigError for another."""
    from chainft.infer.trained import load_run
    from chainft.tasks._text_to_text import TextToText

    trained = load_run(Path(run))
    if not isinstance(trained.task, TextToText):
        raise ConfigError(
            f"{run!r} is a run of task {trained.task.config.name!r}, which writes no texts",
            slug="wrong-run",
            key=key,
            help="name the folder of a run of translate, generate or another task that does",
        )
    return trained


def plain(trained: Trained) -> None:
    """Answer by the likeliest tokens, one answer a text."""
    _set(trained, do_sample=False, temperature=None, top_k=None, top_p=None, sampling_seed=None)


def drawing(trained: Trained, *, count: int, temperature: float, seed: int) -> None:
    """Draw `count` answers a text."""
    _set(trained, do_sample=True, temperature=temperature, sampling_seed=seed, num_return_sequences=count)


def _set(trained: Trained, **settings: Any) -> None:
    one: dict[str, Any] = {"num_beams": 1, "length_penalty": None, "num_return_sequences": 1}
    trained.task.config = replace(trained.task.config, **(one | settings))


def answers(trained: Trained, texts: Sequence[Example], *, batch_size: int) -> Iterator[list[str]]:
    """The different answers to each text, in order, without empty ones."""
    from chainft.infer.predict import make_engine
    from chainft.tasks._text_to_text import TextToText

    assert isinstance(trained.task, TextToText)
    for one in make_engine(trained, batch_size=batch_size).predict(iter(texts)):
        first = one.prediction[trained.task.answer]
        found = one.prediction.get("candidates", [first])
        yield [text for text in dict.fromkeys(found) if text and text.strip()]

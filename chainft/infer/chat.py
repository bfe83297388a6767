"""A conversation with a trained model: its turns, and an answer that comes token by token.

Models of tasks with a history read it all; those of others that write texts answer each message by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from chainft.errors import ConfigError, StorageError
from chainft.infer.precision import Precision, set_precision
from chainft.infer.trained import load_run
from chainft.models.device import choose_device
from chainft.tasks._text_to_text import TextToText
from chainft.tasks.base import Prediction

Say = Callable[[str], None]
"""Receives the next piece of an answer."""


@dataclass(frozen=True)
class Choices:
    """Settings of the answers that differ from those of the run; None: as in the run."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    """0: always the likeliest token."""
    seed: int | None = None
    documents: str | None = None
    precision: Precision = "full"


@dataclass
class Chat:
    """The turns so far, as messages; the model sees as many of the last as have room."""

    task: TextToText
    model: PreTrainedModel
    turns: list[dict[str, str]] = field(default_factory=list)

    @property
    def system(self) -> str | None:
        """What the system says first, if anything."""
        return self.turns[0]["content"] if self.turns and self.turns[0]["role"] == "system" else None

    def set_system(self, text: str | None) -> None:
        """Give it another text, or take it away."""
        self.turns = self.turns[int(self.system is not None) :]
        if text:
            self.turns.insert(0, {"role": "system", "content": text})

    def reset(self) -> None:
        """Forget all turns but the system's."""
        self.turns = self.turns[: int(self.system is not None)]

    def undo(self) -> bool:
        """Take back the last question and its answer; False where there is none."""
        if not self.turns or self.turns[-1]["role"] == "system":
            return False
        del self.turns[-2:]
        return True

    def answer(self, message: str, say: Say) -> tuple[Prediction, bool]:
        """The prediction for the user's next turn, said piece by piece, and whether it is whole.

        A Ctrl-C meanwhile ends it; what was said of it stays. Raises DataError for a message without room, which then
        is no turn.
        """
        asked = [*self.turns, {"role": "user", "content": message}]
        value: Any = {"messages": asked} if self.task.has_history else message
        example = self.task.read_input(
            value, where=f"message {1 + sum(turn['role'] == 'user' for turn in self.turns)}"
        )
        speaker = _Speaker(self.task, say)
        try:
            prediction, is_whole = self.task.stream(self.model, example, speaker.hear), True
        except KeyboardInterrupt:
            prediction, is_whole = {self.task.answer: self.task.to_text(np.array(speaker.ids, dtype=np.int32))}, False
        text = str(prediction[self.task.answer])
        speaker.finish(text)
        if text:  # A conversation cannot hold an empty turn.
            self.turns = [*asked, {"role": "assistant", "content": text}]
        return prediction, is_whole

    def save(self, file: Path) -> None:
        """Add the conversation to a file as a line of JSON, as conversations are read. Raises StorageError."""
        try:
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"messages": self.turns}, ensure_ascii=False) + "\n")
        except OSError as error:
            raise StorageError(
                f"cannot write {str(file)!r}: {error.strerror}", slug="write-failed", where=f"/save {file}"
            ) from error


class _Speaker:
    """Turns tokens into pieces of text that together are the answer."""

    def __init__(self, task: TextToText, say: Say) -> None:
        self.ids: list[int] = []
        self._task = task
        self._say = say
        self._said = ""

    def hear(self, token: int) -> None:
        """Say what is new; a character whose bytes are not all there has to wait."""
        self.ids.append(token)
        text = self._task.to_text(np.array(self.ids, dtype=np.int32))
        if text.startswith(self._said) and not text.endswith("\ufffd"):
            self._say(text[len(self._said) :])
            self._said = text

    def finish(self, answer: str) -> None:
        """Say the rest; all again where the answer turned out to be another."""
        self._say(answer[len(self._said) :] if answer.startswith(self._said) else f"\n{answer}")


def open_chat(run: Path, choices: Choices) -> Chat:
    """A conversation with the model of a run.

    Raises ConfigError where its task writes no texts, or for choices that would do nothing.
    """
    trained = load_run(run)
    before = trained.task
    if not isinstance(before, TextToText):
        raise ConfigError(
            f"the run was trained for task {before.config.name!r}, which writes no answers to talk with",
            slug="no-chat",
            where=str(run),
            help=f"use 'chainft predict {run}', or train task=dialogue",
        )
    task = type(before)(_chosen(before, choices))
    if before.architecture is not None:
        task.adapt(before.architecture)
    task.prepare(before.tokenizer, max_length=before.max_length)
    task.check_inputs()
    torch.nn.Module.to(trained.model, choose_device("auto"))
    set_precision(trained.model, choices.precision)
    return Chat(task, trained.model)


def _chosen(task: TextToText, choices: Choices) -> Any:
    """The task's settings with these choices, one answer a message."""
    config = replace(task.config, num_return_sequences=1)
    if choices.max_new_tokens is not None:
        config = replace(config, max_new_tokens=choices.max_new_tokens)
    if choices.temperature is not None:
        is_drawn = choices.temperature > 0
        config = replace(config, do_sample=is_drawn, temperature=choices.temperature if is_drawn else None)
        if is_drawn:
            config = replace(config, num_beams=1, length_penalty=None)
        else:
            config = replace(config, top_k=None, top_p=None, sampling_seed=None)
    if choices.seed is not None:
        if not config.do_sample:
            raise ConfigError(
                f"--seed {choices.seed} has no effect: the likeliest token is taken",
                slug="no-effect",
                where=f"--seed {choices.seed}",
                help="give --temperature 0.8 or so as well",
            )
        config = replace(config, sampling_seed=choices.seed)
    if choices.documents is not None:
        if not hasattr(config, "documents"):
            raise ConfigError(
                f"--documents {choices.documents} has no effect: task={config.name} looks nothing up",
                slug="no-effect",
                where=f"--documents {choices.documents}",
            )
        config = replace(config, documents=choices.documents)  # type: ignore[call-arg]
    return config

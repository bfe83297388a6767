"""Dialogue: a decoder learns all answers of an assistant in a conversation at once, and to give the next one.

One conversation is one sequence: system, history and answers by a chat template. The loss is on the tokens of the
assistant's turns; evaluation generates the last of them after the true history. L: tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from chainft.config.no_effect import no_effect
from chainft.config.ranges import Count
from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import DataError, ModelError, Problem
from chainft.tasks._dialogue_baselines import most_frequent, retrieval
from chainft.tasks._generation_settings import TextToTextConfig
from chainft.tasks._layouts import IGNORED
from chainft.tasks._text_to_text import TextToText
from chainft.tasks.base import About, Arrays, Baseline, Column, Field, Prediction
from chainft.text.chat import ChatFormat, find_chat_format
from chainft.text.conversation import Turn, answer_problems, answered, turn_problems, turns_of
from chainft.text.documents import DEFAULT_COUNT, Documents, Passage, with_passages
from chainft.text.inputs import checked_text, take, text_example

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_MESSAGES = Field("messages", "value", aliases=("conversations", "conversation", "turns", "dialog", "dialogue"))
_HISTORY, _PASSAGES = "history", "passages"
"""What an example without gold holds: turns that end with the user's, and what was found for it."""


@dataclass(frozen=True, kw_only=True)
class DialogueConfig(TextToTextConfig):
    """An assistant's answers in conversations."""

    name: str = "dialogue"
    template: Literal["auto", "chat", "plain"] = "auto"
    """How turns are written: by the chat template of the tokenizer, by chainft's plain one (`User: ...` a line), which
    is saved with the tokenizer, or auto: the tokenizer's where it has one."""
    overflow: Literal["error", "truncate_start"] = "truncate_start"
    """What a conversation without room does: lose its oldest turns, never the system's, counted and told, or stop."""
    system: str | None = None
    """What the system says where a conversation has no system turn of its own."""
    documents: str | None = None
    """Folder of .txt and .md files: `chainft predict` and `chainft chat` put passages of it before the user's turn,
    found by BM25. Training and evaluation take conversations as they are."""
    num_passages: Count | None = None
    """With `documents`: how many passages at most; default 3."""

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.instruction != "auto":
            because = "conversations say by themselves what is wanted"
            yield no_effect("task.instruction", self.instruction, because, "say it by task.system")
        if self.num_passages is not None and self.documents is None:
            because, help = "there are no documents to find passages in", "set task.documents=FOLDER as well"
            yield no_effect("task.num_passages", self.num_passages, because, help)
        if self.system is not None and not self.system.strip():
            yield Problem("empty-text", "task.system is empty", key="task.system", help="leave it out instead")


class Dialogue(TextToText):
    """Conversations; the best checkpoint has the best perplexity of all answers."""

    config_class: ClassVar[type[TaskConfig]] = DialogueConfig
    config: DialogueConfig
    fields: ClassVar[tuple[Field, ...]] = (_MESSAGES,)
    source_field: ClassVar[Field] = _MESSAGES
    target_field: ClassVar[Field] = _MESSAGES
    features: ClassVar[Mapping[str, Column]] = {
        "input_ids": Column(pad="pad_token", model_input=True),
        "labels": Column(pad=IGNORED, axis="target"),
        "source_length": Column(pad=0, axis=None),
        "turns_cut": Column(pad=0, axis=None),
    }
    """`source_length`: tokens before the last answer, which are a prefix of `input_ids`."""
    answer: ClassVar[str] = "response"
    has_history: ClassVar[bool] = True
    main_metric: ClassVar[str] = "perplexity"
    metric_family: ClassVar[str] = "references"
    default_metrics: ClassVar[tuple[str, ...]] = ("bleu", "chrf", "diversity")
    default_model: ClassVar[str] = "smollm2"
    about: ClassVar[About] = About(
        "Dialogue",
        purpose="answers in conversations",
        sample="Do you open on Sundays?",
        limit="It can state false things fluently; have a person check what matters.",
    )
    chat: ChatFormat

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        value = example.values.get(_MESSAGES.name)
        problems = list(turn_problems(value, example.where))
        yield from problems
        if not problems and isinstance(value, list):
            yield from answer_problems(value, example.where())

    def turns(self, example: Example) -> list[Turn]:
        """All turns, begun by the system's where the config has one."""
        found = turns_of(example.values[_HISTORY if _HISTORY in example.values else _MESSAGES.name])
        if self.config.system is not None and found[0].role != "system":
            found.insert(0, Turn("system", self.config.system))
        return found

    def history(self, example: Example) -> list[Turn]:
        """The turns before the answer that is wanted: of a whole conversation, before the last answer."""
        turns = self.turns(example)
        return turns if _HISTORY in example.values else turns[: answered(turns)[-1]]

    def references(self, example: Example) -> Sequence[str]:
        if _HISTORY in example.values:
            return []
        turns = self.turns(example)
        return [turns[answered(turns)[-1]].content]

    def source(self, example: Example) -> str:
        return "\n".join(f"{turn.role}: {turn.content}" for turn in self.history(example))

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        self.check_inputs()
        for split, examples in splits.items():
            turns = {one.where(): turns_of(one.values[_MESSAGES.name]) for one in examples}
            joined = {one.where(): len(one.values[_MESSAGES.name]) - len(turns[one.where()]) for one in examples}
            yield from _counted(
                joined, "joined-turns", f"{split}: {{}} turns follow one of the same role: joined to it"
            )
            late = {place: len(listed) - 1 - answered(listed)[-1] for place, listed in turns.items()}
            yield from _counted(late, "unanswered-turns", f"{split}: {{}} turns at ends have no answer: left out")
            early = {
                place: sum(turn.role == "assistant" for turn in listed) - len(answered(listed))
                for place, listed in turns.items()
            }
            yield from _counted(
                early, "greetings", f"{split}: {{}} answers come before any user's turn: read, not learned"
            )
            if hasattr(self, "chat"):
                cut = {one.where(): int(self.encode(one)[0]["turns_cut"][0]) for one in examples}
                message = (
                    f"{split}: conversations lose their oldest turns ({{}} in all) to fit {self.max_length} tokens"
                )
                yield from _counted(cut, "cut-history", message, severity="warning", help="raise model.max_length")

    # Features -----------------------------------------------------------------------------------

    def adapt(self, architecture: PreTrainedConfig) -> None:
        """Raises ModelError for an encoder-decoder, which has no one sequence that holds a conversation."""
        if architecture.is_encoder_decoder:
            raise ModelError(
                f"task 'dialogue' trains decoders, but {architecture.model_type!r} is an encoder-decoder",
                slug="no-decoder",
                key="model.path",
                help="use model=smollm2 or another decoder, or task=generate with the history in the prompt",
            )
        super().adapt(architecture)

    def prepare_sources(self) -> None:
        self.chat = find_chat_format(self.tokenizer, self.config.template)

    def encode(self, example: Example) -> list[Arrays]:
        """A whole conversation with the labels of all its answers, or a history. Raises DataError for what has no room."""
        turns, passages = self.turns(example), example.values.get(_PASSAGES, [])
        self.chat.check_content(turns, where=example.where())
        is_asked = _HISTORY in example.values
        if not is_asked:
            turns = turns[: answered(turns)[-1] + 1]
        starts = [place for place, turn in enumerate(turns) if turn.role == "user"]
        tries = [(start, len(passages)) for start in (int(turns[0].role == "system"), *starts)]
        tries += [(starts[-1], count) for count in range(len(passages) - 1, -1, -1)]
        if self.config.overflow == "error":
            tries = tries[:1]
        length = 0
        for start, count in dict.fromkeys(tries):
            kept = [*turns[: int(turns[0].role == "system")], *turns[start:]]
            feature = self._asked(kept, passages[:count], example) if is_asked else self._learned(kept, example)
            length = max(len(feature["input_ids"]), int(feature["source_length"][0]) + self.config.max_new_tokens)
            if length <= self.max_length:
                feature["turns_cut"] = np.array([len(turns) - len(kept)], dtype=np.int32)
                feature["num_passages"] = np.array([count], dtype=np.int32)
                return [feature]
        raise self._without_room(example, length)

    def _learned(self, turns: Sequence[Turn], example: Example) -> Arrays:
        found = self.chat.encode(turns, where=example.where())
        labels = np.full(len(found.ids), IGNORED, dtype=np.int32)
        labels[:-1] = np.where(found.is_learned[1:], found.ids[1:], IGNORED)  # Each place predicts the next token.
        return {
            "input_ids": found.ids,
            "labels": labels,
            "source_length": np.array([found.prompt_length], dtype=np.int32),
        }

    def _asked(self, turns: Sequence[Turn], passages: Sequence[Mapping[str, Any]], example: Example) -> Arrays:
        last = replace(turns[-1], content=with_passages(turns[-1].content, [Passage(**one) for one in passages]))
        ids = self.chat.prompt([*turns[:-1], last], where=example.where())
        return {"input_ids": ids, "source_length": np.array([len(ids)], dtype=np.int32)}

    def _without_room(self, example: Example, length: int) -> DataError:
        ways = ["raise model.max_length", "lower task.max_new_tokens"]
        if self.config.overflow == "error":
            what = "the conversation with room for an answer"
            ways.append("set task.overflow=truncate_start to lose the oldest turns")
        else:
            what = "the last turns alone with room for an answer"
        message = f"{what} (task.max_new_tokens = {self.config.max_new_tokens}) are {length} tokens: more than {self.max_length}"
        return DataError(message, slug="too-long", where=example.where(), help=" or ".join(ways))

    # Prediction ---------------------------------------------------------------------------------

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A user's turn, or an object with a conversation that ends with one. Raises DataError."""
        if isinstance(value, str):
            messages: Any = [Turn("user", checked_text(value, "the message", where=where)).as_message()]
        else:
            messages = take(value, (_MESSAGES.name, *_MESSAGES.aliases), where=where)
        example = text_example({_HISTORY: messages}, where)
        if problems := list(turn_problems(messages, example.where)):
            raise DataError.of(problems)
        turns = turns_of(messages)
        if turns[-1].role != "user":
            raise DataError(
                f"the conversation ends with the {turns[-1].role}'s turn, so there is nothing to answer",
                slug="nothing-to-answer",
                where=where,
                help="let the user's turn be the last",
            )
        if self.config.documents is None:
            return example
        found = self._documents.find(turns[-1].content, self.config.num_passages or DEFAULT_COUNT)
        return replace(example, values={**example.values, _PASSAGES: [vars(one) for one in found]})

    def check_inputs(self) -> None:
        """Raises ConfigError or DataError for a folder of documents that cannot be used."""
        if self.config.documents is not None:
            self._documents.find("", 1)

    @cached_property
    def _documents(self) -> Documents:
        return Documents(Path(str(self.config.documents)), key="task.documents")

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        """The history and the response; `turns_cut`: oldest turns left out; with documents `sources`, best first."""
        prediction: Prediction = {
            _MESSAGES.name: [turn.as_message() for turn in self.history(example)],
            self.answer: None,
        }
        if raw[0] is not None:
            texts = [self.to_text(ids) for ids in raw[0]]
            prediction[self.answer] = texts[0]
            if len(texts) > 1:
                prediction["candidates"] = texts
        if cut := int(windows[0]["turns_cut"][0]):
            prediction["turns_cut"] = cut
        if _PASSAGES in example.values:
            used = example.values[_PASSAGES][: int(windows[0]["num_passages"][0])]
            prediction["sources"] = [{"file": one["file"], "lines": [one["first"], one["last"]]} for one in used]
        return prediction

    # Scores -------------------------------------------------------------------------------------

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`most_frequent`: the commonest answer; `retrieval`: that to the most similar history, by TF-IDF."""
        pairs = []
        for example in train:
            turns = self.turns(example)
            pairs += [(_text_of(turns[:place]), turns[place].content) for place in answered(turns)]
        common, nearest = most_frequent(pairs), retrieval(pairs)
        return {"most_frequent": lambda _: common, "retrieval": lambda one: nearest(_text_of(self.history(one)))}


def _text_of(turns: Sequence[Turn]) -> str:
    """What user and assistant said; the system says the same in most conversations."""
    return "\n".join(turn.content for turn in turns if turn.role != "system")


def _counted(
    counts: Mapping[str, int],
    slug: str,
    message: str,
    *,
    severity: Literal["warning", "info"] = "info",
    help: str | None = None,
) -> Iterator[Finding]:
    """A finding about the places that have a count, if there are any."""
    found = {place: count for place, count in counts.items() if count}
    if found:
        total = f"{message.format(sum(found.values()))}; {len(found)} of {len(counts)} conversations"
        yield Finding(slug, severity, total, next(iter(found)), help, len(found))


PLUGIN = Dialogue

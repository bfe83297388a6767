"""How a conversation becomes tokens: by the tokenizer's chat template, or by a plain one for models without.

What is learned of a text is known to the character: the template is rendered turn by turn, and each rendering must be
the beginning of the next. Templates that rewrite earlier turns (that drop old reasoning, for example) are refused,
since there one sequence cannot hold all answers as they are given. L: tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from chainft.errors import ConfigError, DataError
from chainft.text.conversation import Turn, answered
from chainft.text.prompts import leading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'][:1] | upper + message['role'][1:] + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""A turn a line, `User: ...`; an assistant's ends with the end-of-text token."""
_PROBE = (
    Turn("user", "question 1"),
    Turn("assistant", "answer 1"),
    Turn("user", "question 2"),
    Turn("assistant", "answer 2"),
)
"""A conversation on which a template is tried."""


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens."""

    ids: np.ndarray
    """(L,) int32."""
    is_learned: np.ndarray
    """(L,) bool: the tokens of assistant's turns that answer a user, with the token that ends each."""
    prompt_length: int
    """Tokens before the last answer."""


@dataclass(frozen=True)
class ChatFormat:
    """A chat template that renders turn by turn."""

    tokenizer: PreTrainedTokenizerBase
    tail: str
    """What the template puts after the content of an answer."""
    ended: int
    """Characters of `tail` up to where the token that ends an answer ends; only these are learned."""

    def encode(self, turns: Sequence[Turn], *, where: str) -> Encoded:
        """Tokens up to the last answer to a user, of which there is one.

        Raises DataError at `where` for turns that the template does not take.
        """
        places = answered(turns)
        text, spans = "", []
        for place in places:
            prompt = self._render(turns[:place], where=where, is_prompt=True)
            whole = self._render(turns[: place + 1], where=where)
            if not (prompt.startswith(text) and whole.startswith(prompt) and whole.endswith(self.tail)):
                raise DataError(
                    _rewrites(f"turn {place + 1}"), slug="unusable-template", where=where, help=_PLAIN_HELP
                )
            end = len(whole) - len(self.tail) + self.ended
            text = whole[:end]
            spans.append((len(prompt), end))
        given = self._tokens(text)
        starts = np.array([start for start, _ in given["offset_mapping"]])
        is_learned = np.zeros(len(starts), dtype=bool)
        for start, end in spans:
            is_learned |= (starts >= start) & (starts < end)
        prompt_length = int((starts < spans[-1][0]).sum())
        return Encoded(np.array(given["input_ids"], dtype=np.int32), is_learned, prompt_length)

    def prompt(self, turns: Sequence[Turn], *, where: str) -> np.ndarray:
        """(L,) The tokens after which an answer begins."""
        return np.array(self._tokens(self._render(turns, where=where, is_prompt=True))["input_ids"], dtype=np.int32)

    def check_content(self, turns: Sequence[Turn], *, where: str) -> None:
        """Raise DataError for a turn that holds control tokens as text: it could end itself and play another role."""
        for number, turn in enumerate(turns, start=1):
            if found := [token for token in self.tokenizer.all_special_tokens if str(token) in turn.content]:
                raise DataError(
                    f"turn {number} of the conversation ({turn.role}) holds {found[0]!r}, a control token of the tokenizer",
                    slug="control-token",
                    where=where,
                    help="remove it from the text, or put a blank into it",
                )

    def _render(self, turns: Sequence[Turn], *, where: str, is_prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            return _rendered(self.tokenizer, turns, is_prompt=is_prompt)
        except TemplateError as error:
            roles = ", ".join(turn.role for turn in turns[:6])
            message = f"the chat template does not take a conversation of {roles}{', ...' * (len(turns) > 6)}: {error}"
            raise DataError(message, slug="template-refuses", where=where, help=_PLAIN_HELP) from error

    def _tokens(self, text: str) -> dict[str, list[tuple[int, int]]]:
        given = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return {"input_ids": given["input_ids"], "offset_mapping": given["offset_mapping"]}


_PLAIN_HELP = "set task.template=plain to train with chainft's own, which is saved with the tokenizer"


def find_chat_format(tokenizer: PreTrainedTokenizerBase, template: Literal["auto", "chat", "plain"]) -> ChatFormat:
    """The template that a config names, tried on a short conversation. Raises ConfigError for an unusable one.

    `auto` is the tokenizer's own where it has one. The plain one becomes the tokenizer's, and the token that ends an
    answer its end-of-text token, so that every tool that loads it renders and stops in the same way.
    """
    if template == "chat" and not tokenizer.chat_template:
        raise ConfigError(
            "task.template = 'chat', but the tokenizer has no chat template",
            slug="no-chat-template",
            key="task.template",
            help="leave task.template at auto, which takes chainft's plain one then",
        )
    if template == "plain" or not tokenizer.chat_template:
        tokenizer.chat_template = plain_template(tokenizer)
    found = _probed(tokenizer)
    end = found.tail[: found.ended]
    last = tokenizer(end, add_special_tokens=False, verbose=False)["input_ids"][-1]
    if last != tokenizer.eos_token_id:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(last)
    return found


def plain_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The built-in template, begun with the begin-of-text token where the tokenizer puts one before a text."""
    return ("{{ bos_token }}" if leading(tokenizer) else "") + _PLAIN


def _probed(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """The format of the tokenizer's template. Raises ConfigError where it rewrites or never ends answers."""
    from jinja2 import TemplateError

    try:
        prompt, whole = _rendered(tokenizer, _PROBE[:1], is_prompt=True), _rendered(tokenizer, _PROBE[:2])
        if not whole.startswith(prompt):
            raise _unusable(_rewrites("turn 2"))
        tail = whole[whole.rindex(_PROBE[1].content) + len(_PROBE[1].content) :]
        found = ChatFormat(tokenizer, tail, _end_of(tokenizer, tail))
        encoded = found.encode(_PROBE, where="a conversation of two questions and answers")
    except (TemplateError, DataError) as error:
        raise _unusable(str(error)) from error
    first = found.prompt(_PROBE[:3], where="")
    if encoded.ids[: encoded.prompt_length].tolist() != first.tolist():
        raise _unusable("the tokens of an answer reach into what stands before it")
    return found


def _end_of(tokenizer: PreTrainedTokenizerBase, tail: str) -> int:
    """Where in the tail the token ends that ends an answer: the end-of-text token, else the first control token."""
    given = tokenizer(tail, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    control = set(tokenizer.all_special_ids)
    ends = {
        token: end for token, (_, end) in reversed(list(zip(given["input_ids"], given["offset_mapping"], strict=True)))
    }
    if tokenizer.eos_token_id in ends:
        return int(ends[tokenizer.eos_token_id])
    first = next((token for token in given["input_ids"] if token in control), None)
    if first is None:
        raise _unusable(f"no control token ends an answer, only {tail!r}: no answer would ever end")
    return int(ends[first])


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], *, is_prompt: bool = False) -> str:
    messages = [turn.as_message() for turn in turns]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_prompt))


def _rewrites(what: str) -> str:
    return f"it renders {what} otherwise once more turns follow, so that one sequence cannot hold all answers"


def _unusable(why: str) -> ConfigError:
    return ConfigError(
        f"the chat template of the tokenizer is not usable: {why}",
        slug="unusable-template",
        key="task.template",
        help=_PLAIN_HELP,
    )

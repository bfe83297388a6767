"""Templates: how a source text is put to a language model before its response begins.

Two layers: an *instruction* says what is wanted, with the source in its place; a *template* is laid around it: text,
or the chat template of the tokenizer. Decoders go on where the template ends; encoders of encoder-decoders read it
with the special tokens that their tokenizer puts around any text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chainft.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """Tokens up to where the response begins; those of the source itself are `[start, end)`, the rest is template."""

    ids: list[int]
    start: int
    end: int

    def without(self, count: int, *, at_end: bool = False) -> list[int]:
        """The tokens less the first (or last) `count` of the source itself.

        >>> Encoded([9, 1, 2, 3, 8], 1, 4).without(1, at_end=True)
        [9, 1, 2, 8]
        """
        first = self.end - count if at_end else self.start
        return self.ids[:first] + self.ids[first + count :]


@dataclass(frozen=True)
class Template:
    """What stands around a source text."""

    tokenizer: PreTrainedTokenizerBase
    place: str
    """Where the source stands, in braces: `{prompt}`."""
    instruction: str
    """Text with `place` in it."""
    around: str | None
    """Text with `place` in it, where the instruction stands; None: the tokenizer's chat template."""
    closed: bool
    """For an encoder: with all special tokens of the tokenizer; else only with the one before every text, if any."""

    def encode(self, source: str) -> Encoded:
        """The tokens of a source in its template; at least one, since there must be a place to predict from."""
        text = self.render(source)
        first = self._find(text, source)
        last = first + len(source.strip())
        return tokenise(self.tokenizer, text, first, last, closed=self.closed, plain=self.around is not None)

    def _find(self, text: str, source: str) -> int:
        """Where the source begins in the rendered text, without blanks around it, which chat templates may take away."""
        bare = source.strip()
        before = self.instruction.partition(self.place)[0].lstrip()
        whole = self.instruction.replace(self.place, source).strip()
        found = text.find(whole)
        return text.find(bare, found + len(before)) if found >= 0 else max(text.find(bare), 0)

    def render(self, source: str) -> str:
        """The instruction with its source in the template, as text."""
        asked = self.instruction.replace(self.place, source)
        if self.around is not None:
            return self.around.replace(self.place, asked)
        messages = [{"role": "user", "content": asked}]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def tokenise(
    tokenizer: PreTrainedTokenizerBase, text: str, first: int, last: int, *, closed: bool, plain: bool = True
) -> Encoded:
    """The tokens of a text of which the characters `[first, last)` may be cut; `closed` as in `Template`.

    `plain=False`: the text, of a chat template, brings its special tokens itself.
    """
    if not tokenizer.is_fast:
        return _without_offsets(tokenizer, text, closed=closed, plain=plain, is_whole=text[first:last] == text.strip())
    given = tokenizer(
        text,
        add_special_tokens=closed and plain,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    inside = [
        place
        for place, ((start, end), special) in enumerate(
            zip(given["offset_mapping"], given["special_tokens_mask"], strict=True)
        )
        if first <= start < end <= last and not (special and closed)
    ]
    before = leading(tokenizer) if plain and not closed else ()
    ids = [*before, *given["input_ids"]] or [tokenizer.eos_token_id]
    edges = (inside[0], inside[-1] + 1) if inside else (0, 0)
    return Encoded(ids, edges[0] + len(before), edges[1] + len(before))


def _without_offsets(
    tokenizer: PreTrainedTokenizerBase, text: str, *, closed: bool, plain: bool, is_whole: bool
) -> Encoded:
    """Of a tokenizer that does not know where its tokens stand: nothing can be cut where words are around the source."""
    bare = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if closed and plain:
        ids = list(tokenizer(text, verbose=False)["input_ids"])
        start = next((place for place in range(len(ids)) if ids[place : place + len(bare)] == bare), 0)
    else:
        before = leading(tokenizer) if plain else ()
        ids = [*before, *bare] or [tokenizer.eos_token_id]
        start = len(before)
    return Encoded(ids, start, start + len(bare) if is_whole else start)


def find_template(
    tokenizer: PreTrainedTokenizerBase, template: str, *, place: str, instruction: str, closed: bool
) -> Template:
    """The template that a config names: `auto`, `chat`, or text with `place`. Raises ConfigError."""
    has_chat = bool(tokenizer.chat_template)
    if template == "chat" and not has_chat:
        raise ConfigError(
            "task.template = 'chat', but the tokenizer has no chat template",
            slug="no-chat-template",
            key="task.template",
            help=f"leave task.template at auto, or write one with {place} in it",
        )
    check_place("task.instruction", instruction, place)
    if template == "chat" or (template == "auto" and has_chat):
        return Template(tokenizer, place, instruction, None, closed)
    check_place("task.template", template, place, words=("auto", "chat"))
    around = template if template != "auto" else place if closed else f"{place}\n"
    return Template(tokenizer, place, instruction, around, closed)


def check_place(key: str, text: str, place: str, *, words: tuple[str, ...] = ("auto",)) -> None:
    """Raise ConfigError for a text without a place for the source that is none of `words` either."""
    if text not in words and place not in text:
        raise ConfigError(
            f"{key} = {text!r} has no place for the {place[1:-1]}",
            slug="no-place-in-template",
            key=key,
            help=f"write {place} where it stands, or give {' or '.join(words)}",
        )


def leading(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The begin-of-text token, where the tokenizer puts one before a text."""
    around = tokenizer("", verbose=False)["input_ids"]
    bos = tokenizer.bos_token_id
    return (bos,) if bos is not None and list(around[:1]) == [bos] else ()

"""Templates: how a prompt is put to a language model before its response begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from chainft.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACE = "{prompt}"
PLAIN = PLACE + "\n"


@dataclass(frozen=True)
class Encoded:
    """Tokens up to where the response begins; those of the prompt itself are `[start, end)`, the rest is template."""

    ids: list[int]
    start: int
    end: int

    def without(self, count: int) -> list[int]:
        """The tokens less the first `count` of the prompt itself."""
        return self.ids[: self.start] + self.ids[self.start + count :]


@dataclass(frozen=True)
class Template:
    """Text around the prompt, or the tokenizer's chat template (`text` is None)."""

    tokenizer: PreTrainedTokenizerBase
    text: str | None
    before: tuple[int, ...]
    """Tokens that the tokenizer puts before every text (begin-of-text); a chat template writes its own."""

    def encode(self, prompt: str) -> Encoded:
        """The tokens of a prompt in its template; at least one, since there must be a place to predict from."""
        text, bare = self.render(prompt), prompt.strip()
        first = max(text.find(bare), 0)
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        inside = [
            place
            for place, (start, end) in enumerate(tokens["offset_mapping"])
            if first <= start < end <= first + len(bare)
        ]
        ids = [*self.before, *tokens["input_ids"]] or [self.tokenizer.eos_token_id]
        edges = (inside[0], inside[-1] + 1) if inside else (0, 0)
        return Encoded(ids, edges[0] + len(self.before), edges[1] + len(self.before))

    def render(self, prompt: str) -> str:
        """The prompt as text."""
        if self.text is not None:
            return self.text.replace(PLACE, prompt)
        messages = [{"role": "user", "content": prompt}]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def find_template(tokenizer: PreTrainedTokenizerBase, template: str) -> Template:
    """The template that a config names: `auto`, `chat`, or text with `{prompt}`. Raises ConfigError."""
    has_chat = bool(tokenizer.chat_template)
    if template == "chat" and not has_chat:
        raise ConfigError(
            "task.template = 'chat', but the tokenizer has no chat template",
            slug="no-chat-template",
            key="task.template",
            help="leave task.template at auto, or write one with {prompt} in it",
        )
    if template == "chat" or (template == "auto" and has_chat):
        return Template(tokenizer, None, ())
    if template != "auto" and PLACE not in template:
        raise ConfigError(
            f"task.template = {template!r} has no place for the prompt",
            slug="no-prompt-in-template",
            key="task.template",
            help="write {prompt} where it stands, or give auto or chat",
        )
    return Template(tokenizer, PLAIN if template == "auto" else template, _leading(tokenizer))


def _leading(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The begin-of-text token, where the tokenizer puts one before a text."""
    around = tokenizer("", verbose=False)["input_ids"]
    bos = tokenizer.bos_token_id
    return (bos,) if bos is not None and list(around[:1]) == [bos] else ()

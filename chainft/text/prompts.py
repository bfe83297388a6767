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
class Template:
    """Text around the prompt, or the tokenizer's chat template (`text` is None)."""

    tokenizer: PreTrainedTokenizerBase
    text: str | None
    before: tuple[int, ...]
    """Tokens that the tokenizer puts before every text (begin-of-text); a chat template writes its own."""

    def encode(self, prompt: str) -> list[int]:
        """Tokens of the prompt, up to where the response begins."""
        ids = self.tokenizer(self.render(prompt), add_special_tokens=False, verbose=False)["input_ids"]
        return [*self.before, *ids] or [self.tokenizer.eos_token_id]  # There must be a place to predict from.

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

"""`augment=mask`: some words give way to what a masked language model expects in their place; entities stay.

Contextual substitution (Kobayashi 2018; Wu et al. 2019), a whole word for a whole word, so tags keep their places.
Shapes: B texts, L tokens, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from chainft.augmentations.base import (
    Augmentation,
    AugmentationConfig,
    Made,
    Progress,
    Share,
    drawn_field,
    is_tagged,
    text_fields,
    unfit,
)
from chainft.config.ranges import Count
from chainft.data.example import Example
from chainft.errors import ModelError
from chainft.text.schemes import OUTSIDE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from chainft.tasks.base import Task

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+")
"""A word of letters; a character of scripts that do not part words."""
_SCANNED = 8
"""So many times `top_k` candidates are looked at: many are parts of words, or the word itself."""


@dataclass(frozen=True, kw_only=True)
class MaskConfig(AugmentationConfig):
    """Words are replaced by a masked language model."""

    name: str = "mask"
    model: str
    """A masked language model: a folder or hub name, such as google-bert/bert-base-cased."""
    share: Share = 0.15
    """The share of the words that are replaced, at least one."""
    top_k: Count = 10
    """Words are drawn, by their probability, from so many that the model finds likeliest."""
    batch_size: Count = 32
    """Texts in one forward pass."""


@dataclass(frozen=True)
class _Task:
    """A text whose masked words are asked for."""

    example: Example
    field: str
    number: int
    copy: int
    pieces: tuple[str, ...]
    """Words and what is between them; together the text."""
    places: tuple[int, ...]
    """Pieces that are masked."""


class Mask(Augmentation):
    """Masks some words of each text at once and draws another for each."""

    config_class: ClassVar[type[AugmentationConfig]] = MaskConfig
    uses_models: ClassVar[bool] = True
    config: MaskConfig

    def __init__(self, config: AugmentationConfig, task: Task) -> None:
        super().__init__(config, task)
        self._fields = text_fields(task)
        if not is_tagged(task) and not self._fields:
            because = "other words would change its answers"
            raise unfit(config, task, because, "it serves tasks with tags or labels, such as ner and classify")

    def make(self, examples: Sequence[Example], *, progress: Progress) -> Iterator[Made]:
        """Raises ModelError where the model is no masked language model."""
        tokenizer, model = self._load()
        asked = [one for number, example in enumerate(examples) for one in self._asked(number, example)]
        for start in range(0, len(asked), self.config.batch_size):
            chosen = asked[start : start + self.config.batch_size]
            for one, likely in zip(chosen, _likely(chosen, tokenizer, model, self._scanned), strict=True):
                if (made := self._made(one, likely, tokenizer)) is not None:
                    yield made
            progress(min(start + self.config.batch_size, len(asked)), len(asked))

    @property
    def _scanned(self) -> int:
        return self.config.top_k * _SCANNED

    def _load(self) -> tuple[PreTrainedTokenizerBase, Any]:
        from transformers import AutoModelForMaskedLM

        from chainft.config.run import ModelConfig
        from chainft.models.device import choose_device
        from chainft.models.load import load_tokenizer
        from chainft.models.read import explained
        from chainft.models.weights import locate

        settings = ModelConfig(path=self.config.model)
        place = locate(settings)
        tokenizer = load_tokenizer(settings)
        if tokenizer.mask_token is None:
            raise ModelError(
                f"the tokenizer of {self.config.model!r} has no mask token: it is no masked language model",
                slug="no-mask-token",
                key="augment.model",
                help="such as google-bert/bert-base-cased or FacebookAI/roberta-base",
            )
        with explained(place, "model"):
            model, info = AutoModelForMaskedLM.from_pretrained(
                place.name, **place.options(), use_safetensors=True, output_loading_info=True
            )
        if info["missing_keys"]:
            raise ModelError(
                f"{self.config.model!r} has no head of a masked language model: "
                f"{', '.join(sorted(info['missing_keys'])[:3])} are not in its weights",
                slug="no-masked-head",
                key="augment.model",
                help="take the pretrained model itself, not one that was made for another task",
            )
        return tokenizer, model.to(choose_device("auto")).eval()

    def _asked(self, number: int, example: Example) -> Iterator[_Task]:
        for copy in range(self.config.num_copies):
            random = self.random(number, copy)
            if is_tagged(self.task):
                words, tags = example.values["tokens"], example.values["tags"]
                pieces = tuple(part for word in words for part in (word, " "))
                free = [
                    2 * place for place, tag in enumerate(tags) if tag == OUTSIDE and _WORD.fullmatch(words[place])
                ]
                field = "tokens"
            else:
                field = drawn_field(self._fields, example, random)
                pieces = _pieces(example.values[field])
                free = [place for place, piece in enumerate(pieces) if _WORD.fullmatch(piece)]
            if free:
                count = max(1, round(self.config.share * len(free)))
                places = tuple(sorted(int(one) for one in random.choice(free, size=count, replace=False)))
                yield _Task(example, field, number, copy, pieces, places)

    def _made(self, one: _Task, likely: Sequence[tuple[np.ndarray, np.ndarray]], tokenizer: Any) -> Made | None:
        """The text with other words; `likely`: ids and logits for each masked word that fits into the model."""
        random = np.random.default_rng([self.config.seed, one.number, one.copy, 1])
        pieces, changes = list(one.pieces), []
        for place, (ids, logits) in zip(one.places, likely, strict=False):
            words = list(_words(ids, logits, tokenizer, unlike=one.pieces[place], most=self.config.top_k))
            if not words:
                continue
            weights = np.exp(np.array([logit for _, logit in words]) - words[0][1])
            drawn = words[int(random.choice(len(words), p=weights / weights.sum()))][0]
            pieces[place] = _cased_like(drawn, one.pieces[place])
            changes.append({"from": one.pieces[place], "to": pieces[place]})
        if not changes:
            return None
        value: Any = pieces[::2] if one.field == "tokens" else "".join(pieces)
        return Made({**one.example.values, one.field: value}, one.example, {"words": changes})


def _pieces(text: str) -> tuple[str, ...]:
    """The words of a text and what is between them; together the text.

    >>> _pieces("Pay me, now")
    ('', 'Pay', ' ', 'me', ', ', 'now', '')
    """
    pieces, end = [], 0
    for word in _WORD.finditer(text):
        pieces += [text[end : word.start()], word[0]]
        end = word.end()
    return (*pieces, text[end:])


def _likely(
    tasks: Sequence[_Task], tokenizer: Any, model: Any, count: int
) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """For each text and each of its masks that fits into the model: the likeliest tokens and their logits, (count,)."""
    import torch

    texts = [
        "".join(tokenizer.mask_token if place in task.places else piece for place, piece in enumerate(task.pieces))
        for task in tasks
    ]
    longest = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        logits = model(**batch).logits  # (B, L, V)
    found = []
    for row, ids in zip(logits, batch["input_ids"], strict=True):
        values, tokens = row[ids == tokenizer.mask_token_id].float().topk(min(count, row.shape[-1]))  # (masks, count)
        found.append(list(zip(tokens.cpu().numpy(), values.cpu().numpy(), strict=True)))
    return found


def _words(
    ids: np.ndarray, logits: np.ndarray, tokenizer: Any, *, unlike: str, most: int
) -> Iterator[tuple[str, float]]:
    """At most so many tokens that are whole words of letters other than `unlike`, the likeliest first."""
    found = 0
    for token, logit in zip(ids.tolist(), logits.tolist(), strict=True):
        word = tokenizer.decode([token]).strip()
        whole = tokenizer(f" {word}", add_special_tokens=False)["input_ids"] == [token]
        if found < most and whole and _WORD.fullmatch(word) and word.casefold() != unlike.casefold():
            found += 1
            yield word, logit


def _cased_like(word: str, model: str) -> str:
    """`word` with a capital letter where `model` has one, and all capitals where it has only those."""
    if len(model) > 1 and model.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


PLUGIN = Mask

"""Controlled generation: a language model learns to say a meaning, or to write as attributes want it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import DataError, Problem
from chainft.metrics.base import make_metrics
from chainft.metrics.slots import Realisation, SlotErrors
from chainft.tasks._control_settings import ControlConfig
from chainft.tasks._text_to_text import TextToText
from chainft.tasks.base import About, Arrays, Baseline, Field, Labels, Metric, Prediction, Scores
from chainft.text.inputs import checked_text, take, text_example, text_problems
from chainft.text.labels import Census, label_set
from chainft.text.meanings import Meaning, MeaningError, read_meaning, show
from chainft.text.nearest import nearest
from chainft.text.phrasings import PHRASINGS
from chainft.text.slot_errors import Lexicon, normal, slot_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from chainft.data.batching import Batch

_MEANING = Field("meaning", "value", aliases=("mr", "meaning_representation"))
_PREFIX = Field("prefix", "text", required=False, aliases=("prompt",))
_TEXT = Field("text", "value", aliases=("ref", "reference", "references", "target"), gold=True)
_SLOTS = "slots"
"""The metric that counts slot errors."""


class Control(TextToText):
    """Meanings or attributes, and texts. Rows of one meaning are learned each by itself and evaluated as one, with all
    their texts as references. The best checkpoint has the best chrF."""

    config_class: ClassVar[type[TaskConfig]] = ControlConfig
    config: ControlConfig
    source_field: ClassVar[Field] = _MEANING
    target_field: ClassVar[Field] = _TEXT
    fields: ClassVar[tuple[Field, ...]] = (_MEANING, _PREFIX, _TEXT)
    answer: ClassVar[str] = "text"
    main_metric: ClassVar[str] = "chrf"
    metric_family: ClassVar[str] = "references"
    about: ClassVar[About] = About(
        "Controlled generation",
        purpose="writes texts that say given facts",
        answers_labels=False,
        sample="name[The Old Mill], kind[museum], area[riverside]",
        limit="It can leave facts out and make others up: see the slot error rate, and check what matters.",
    )
    default_model: ClassVar[str] = "smollm2"
    default_metrics: ClassVar[tuple[str, ...]] = ("bleu", "chrf", _SLOTS)

    def __init__(self, config: ControlConfig) -> None:
        super().__init__(config)
        attributes = tuple(Field(name, "label") for name in config.attributes)
        meaning = replace(_MEANING, required=not attributes)
        self.fields = (meaning, *attributes, _PREFIX, _TEXT)  # type: ignore[misc]

    def instruction(self) -> str:
        if self.has_encoder or self.config.control == "codes":
            return self.place
        return f"Write a text that says this:\n{self.place}"

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        values, where = example.values, example.where()
        if isinstance(values.get("meaning"), str):
            yield from text_problems(values["meaning"], "meaning", where)
        if values.get("meaning") is not None:
            try:
                read_meaning(values["meaning"])
            except MeaningError as error:
                help = "write slot[value], slot[value], or an object {slot: value}"
                yield Problem("broken-meaning", f"the meaning is broken: {error}", where, help=help)
        for name in self.config.attributes:
            if not isinstance(values.get(name), str):
                yield Problem("wrong-type", f"{name} must be one value, not {values.get(name)!r}", where)
        if "prefix" in values:
            yield from text_problems(values["prefix"], "prefix", where)
        if _TEXT.name in values:
            yield from self._target_problems(example)

    def grouped(self, split: Split, examples: Sequence[Example]) -> Sequence[Example]:
        """In train a row for each text; else a row for each source, with the texts of all its rows."""
        if split == "train":
            return [
                replace(one, values={**one.values, "text": text}) for one in examples for text in self.references(one)
            ]
        groups: dict[tuple[str, ...], list[Example]] = {}
        for one in examples:
            groups.setdefault(self._key(one), []).append(one)
        return [
            replace(
                rows[0], values={**rows[0].values, "text": [text for row in rows for text in self.references(row)]}
            )
            for rows in groups.values()
        ]

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        """The names of slots: they say which of the known phrasings can occur at all."""
        census = {split: Census() for split in splits}
        for split, examples in splits.items():
            for example in examples:
                for slot, _ in self.meaning(example):
                    census[split].add(slot, example.where())
        names = label_set(census, unseen=unseen, what="slot")
        self.labels = Labels(tuple(names), dict(census["train"].counts) if "train" in census else {})

    def model_options(self) -> dict[str, Any]:
        """None: slots are no classes of the model."""
        return {}

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        """Also what the slot error rate cannot judge."""
        yield from super().contract(splits)
        known = {slot_key(name) for name in self.labels.names}
        for key in self.config.phrases:
            if slot_key(read_meaning(key)[0][0]) not in known:
                yield Finding("unknown-slot", "warning", f"task.phrases has {key!r}, but no meaning has this slot")
        for split, examples in splits.items():
            found = [one for row in examples for one in self._lexicon.judge(self.meaning(row), "").unjudged]
            if found and self._counts_slots:
                message = (
                    f"{split}: {len(found)} slots cannot be judged, such as {found[0]}: the slot error rate leaves "
                    "them out"
                )
                help = f"say how they are put in words: task.phrases={{'{found[0]}': [...]}}"
                yield Finding("unjudged-slot", "info", message, None, help, len(found))

    # Source -------------------------------------------------------------------------------------

    def meaning(self, example: Example) -> Meaning:
        """The slots of an example; none where it has attributes alone."""
        value = example.values.get("meaning")
        return () if value is None else read_meaning(value)

    def source(self, example: Example) -> str:
        """Attributes and slots as `control` wants them, then the prefix."""
        pairs = [*self._attributes(example), *self._ordered(self.meaning(example))]
        if self.config.control == "codes":
            told = " ".join(f"<{name}> {value}" for name, value in pairs)
        else:
            told = "; ".join(f"{name}: {value}" for name, value in pairs)
        prefix = example.values.get("prefix")
        return f"{told}\n{prefix}" if prefix else told

    def _attributes(self, example: Example) -> list[tuple[str, str]]:
        return [(name, str(example.values[name])) for name in self.config.attributes]

    def _ordered(self, meaning: Meaning) -> Sequence[tuple[str, str]]:
        if self.config.slot_order == "given":
            return meaning
        if self.config.slot_order == "sorted":
            return sorted(meaning)
        whole = show(tuple(sorted(meaning)))
        return sorted(meaning, key=lambda pair: hashlib.sha256(f"{whole}\n{show((pair,))}".encode()).digest())

    def _key(self, example: Example) -> tuple[str, ...]:
        """What makes two rows one source; the order of slots does not."""
        slots = show(tuple(sorted(self.meaning(example))))
        return (slots, str(example.values.get("prefix")), *(value for _, value in self._attributes(example)))

    # Generation ---------------------------------------------------------------------------------

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        super().prepare(tokenizer, max_length=max_length)
        self._bad_words = sorted({row for word in self.config.forbidden for row in _rows_of(word.strip(), tokenizer)})

    def generation_options(self) -> Mapping[str, Any]:
        return {"bad_words_ids": [list(row) for row in self._bad_words]} if self._bad_words else {}

    def num_answers(self, batch: Batch) -> int:
        return self.config.candidates if self.config.require_values else super().num_answers(batch)

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        """With `require_values` the best candidate; of a meaning, which slots the text says, and which not."""
        prediction = super().decode(example, windows, raw)
        texts = prediction.pop("candidates", [prediction["text"]])
        if prediction["text"] is None:
            return prediction
        meaning = self.meaning(example)
        if self.config.require_values:
            many = 1 if "text" in example.values else self.config.num_return_sequences
            texts = sorted(texts, key=lambda text: self._badness(meaning, text))[:many]
        prediction["text"] = texts[0]
        if len(texts) > 1:
            prediction["candidates"] = texts
        if meaning:
            judged = self._lexicon.judge(meaning, texts[0])
            found = {name: list(getattr(judged, name)) for name in ("missing", "redundant", "unjudged")}
            prediction |= {f"slots_{name}": slots for name, slots in found.items() if slots}
        return prediction

    def _badness(self, meaning: Meaning, text: str) -> tuple[int, int]:
        """Forbidden words that were spelt in another way than their tokens say, then slot errors."""
        words = f" {normal(text)} "
        forbidden = sum(f" {normal(word)} " in words for word in self.config.forbidden)
        return forbidden, self._lexicon.judge(meaning, text).errors

    def shown(self, example: Example) -> Prediction:
        given = {name: example.values[name] for name in (*self.config.attributes, "prefix") if name in example.values}
        return {"meaning": show(self.meaning(example)), **given}

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A line with a meaning, or an object with meaning, attributes and prefix."""
        given = {"meaning": value} if isinstance(value, str) else value
        found: dict[str, Any] = {}
        for field in self.fields[:-1]:
            names = (field.name, *field.aliases)
            if field.required or any(name in given for name in names):
                found[field.name] = take(given, names, where=where)
        for name in self.config.attributes:
            found[name] = checked_text(found[name], name, where=where)
        example = text_example(found, where)
        if problems := list(self.validate(example)):
            raise DataError.of(problems)
        return example

    # Scores -------------------------------------------------------------------------------------

    @property
    def _lexicon(self) -> Lexicon:
        return _lexicon_of(self.labels.names, tuple(self.config.phrases.items()))

    @cached_property
    def _counts_slots(self) -> bool:
        if self.config.metrics is None:
            return not self.config.attributes and self.config.generate_in_evaluation
        return _SLOTS in self.config.metrics

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Of the metrics that compare texts alone."""
        return tuple(name for name in super().metric_names if name != _SLOTS)

    def metrics(self) -> list[Metric]:
        found: list[Metric] = [_OnTexts(one) for one in super().metrics()]
        for metric in make_metrics([_SLOTS], SlotErrors.family) if self._counts_slots else []:
            if isinstance(metric, SlotErrors):
                metric.lexicon = self._lexicon
            found.append(metric)
        return found

    def gold(self, example: Example) -> Realisation:
        return {"meaning": self.meaning(example), "references": list(self.references(example))}

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`nearest`: the text of the most alike source of train; of meanings also `values`: their values in a row."""
        find = nearest([self._items(one) for one in train])

        def of_nearest(example: Example) -> str:
            number = find(self._items(example))
            return "" if number is None else self.references(train[number])[0]

        found: dict[str, Baseline] = {"nearest": of_nearest}
        return found | ({"values": self._values} if self.labels.names else {})

    def _items(self, example: Example) -> list[tuple[str, str]]:
        prefix = str(example.values.get("prefix", "")).casefold().split()
        return [*self._attributes(example), *self.meaning(example), *(("", word) for word in prefix)]

    def _values(self, example: Example) -> str:
        """`The Eagle, French, riverside.`; yes and no in the words of the table."""
        words = [self._lexicon.wording(slot, value) for slot, value in self.meaning(example)]
        return f"{', '.join(words)}."


class _OnTexts(Metric):
    """A metric that compares with references, of which the gold of this task has more to say."""

    def __init__(self, inner: Metric) -> None:
        self._inner = inner
        self.family = inner.family  # type: ignore[misc]
        self.needs_scores = inner.needs_scores  # type: ignore[misc]

    def update(self, gold: Realisation, predicted: Any) -> None:
        self._inner.update(list(gold["references"]), predicted)

    def compute(self) -> Scores:
        return self._inner.compute()


@cache
def _lexicon_of(slots: tuple[str, ...], phrases: tuple[tuple[str, tuple[str, ...]], ...]) -> Lexicon:
    """The known phrasings of these slots, and those of the config."""
    known = {slot_key(slot) for slot in slots}
    own = {_canonical(key): texts for key, texts in phrases}
    return Lexicon(
        {key: texts for key, texts in PHRASINGS.items() if _canonical(key)[0] in known and _canonical(key) not in own}
        | dict(phrases)
    )


def _canonical(key: str) -> tuple[str, str]:
    ((slot, value),) = read_meaning(key)
    return slot_key(slot), normal(value)


def _rows_of(word: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, ...]]:
    """The tokens of a word as it may stand in a text: at its beginning or after a blank, small or with capitals."""
    for spelt in {word, word.lower(), word.upper(), word[:1].upper() + word[1:]}:
        for before in ("", " "):
            ids = tuple(tokenizer(before + spelt, add_special_tokens=False, verbose=False)["input_ids"])
            if ids and tokenizer.unk_token_id not in ids:
                yield ids


PLUGIN = Control

"""The relation between two marked entities of a text: one label a pair, classified from the text with markers in it.

The model is a plain text classifier: markers are punctuation that it knows (`@ head @`, `# tail #`), so that neither
its words nor its head are anything special. A text that is too long loses what is far from the entities, never these.
Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from chainft.config.ranges import FractionBelowOne, Positive
from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import ConfigError, DataError, Problem, did_you_mean
from chainft.metrics.base import make_metrics
from chainft.tasks.base import (
    About,
    Arrays,
    Baseline,
    Column,
    Field,
    Labels,
    Mark,
    Metric,
    Mistake,
    Prediction,
    Task,
    Together,
)
from chainft.text import classes
from chainft.text.bag_of_words import bag_of_words
from chainft.text.frame import find_frame
from chainft.text.inputs import checked_text, take, text_example, text_problems
from chainft.text.labels import Census, label_set, weights_of
from chainft.text.relations import Entity, Markers, Pair, kept_tokens, pair_of, parse_label, read_pair

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from chainft.data.batching import Batch

IGNORED = -100
NEGATIVES = ("other", "no_relation", "no relation", "none", "na", "n/a")
"""What data sets call the label of pairs without a relation, in small letters."""


@dataclass(frozen=True, kw_only=True)
class RelationConfig(TaskConfig):
    """One relation a pair of entities."""

    name: str = "relation"
    markers: Markers = "punct"
    """What stands around the entities: punct (`@ head @`, `# tail #`), or typed, their types too (`@ * person * Ada @`)."""
    negative_label: str | None = "auto"
    """The label of pairs without a relation, which F1 leaves out; auto: Other, no_relation, none or NA if the data have
    one of them; null: there is none."""
    label_smoothing: FractionBelowOne = 0.0
    """Share of the target that is spread evenly over all labels."""
    class_weights: Literal["balanced"] | Mapping[str, Positive] | None = None
    """Weight of each label in the loss: null (all 1), balanced (rare ones more), or numbers such as `{Other: 0.5}`."""
    metrics: tuple[str, ...] = ("relations",)
    """What evaluation counts."""


class Relation(Task):
    """Directed relations are labels such as `Cause-Effect(e1,e2)`; e1 is the head, e2 the tail."""

    config_class: ClassVar[type[TaskConfig]] = RelationConfig
    fields: ClassVar[tuple[Field, ...]] = (
        Field("text", "text", aliases=("sentence", "content")),
        Field("head", "value", required=False, aliases=("e1", "subject", "subj")),
        Field("tail", "value", required=False, aliases=("e2", "object", "obj")),
        Field("head_type", "label", required=False, aliases=("e1_type", "subject_type", "subj_type")),
        Field("tail_type", "label", required=False, aliases=("e2_type", "object_type", "obj_type")),
        Field("label", "label", aliases=("relation", "class"), gold=True),
    )
    features: ClassVar[Mapping[str, Column]] = {
        "input_ids": Column("pad_token", model_input=True),
        "token_type_ids": Column(0, model_input=True),
        "labels": Column(IGNORED, axis=None),
    }
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    main_metric: ClassVar[str] = "relation_f1_macro"
    metric_family: ClassVar[str] = "relation"
    about: ClassVar[About] = About(
        "Relation extraction",
        purpose="names the relation between two marked entities",
        sample="The <e1>storm</e1> caused heavy <e2>damage</e2> along the coast.",
        limit="It reads a text with markers (`@ head @` and `# tail #`), and always answers with a label it knows.",
    )
    config: RelationConfig

    def __init__(self, config: RelationConfig) -> None:
        super().__init__(config)
        self.metrics()  # A wrong name is found before any data are read.

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        values, where = example.values, example.where()
        yield from classes.name_problems(values.get("label", "absent"), where)
        wrong = list(text_problems(values.get("text"), "text", where))
        yield from wrong
        if not wrong:
            try:
                self._check_types(read_pair(values, where), where)
            except DataError as error:
                yield from error.problems

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        """Raises DataError for labels that only other splits have, ConfigError for a negative label that is none."""
        census = {split: Census() for split in splits}
        for split, examples in splits.items():
            for example in examples:
                census[split].add(example.values["label"], example.where())
        names = label_set(census, unseen=unseen, what="relation")
        self.labels = Labels(tuple(names), dict(census["train"].counts) if "train" in census else {})
        negative = self.config.negative_label
        if negative not in (None, "auto", *names):
            raise ConfigError(
                f"task.negative_label = {negative!r} is no label of the data; there are: {', '.join(names)}",
                slug="unknown-label",
                key="task.negative_label",
                help=did_you_mean(str(negative), names),
            )

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        negative = self.negative_label
        told = (
            f"{negative!r} is the label of no relation, which F1 leaves out"
            if negative
            else "every label is a relation"
        )
        yield Finding("negative-label", "info", told, help="task.negative_label says otherwise")

    def stratum(self, example: Example) -> str | None:
        return str(example.values["label"])

    @property
    def negative_label(self) -> str | None:
        """The label of pairs without a relation, as the config and the labels say."""
        if self.config.negative_label != "auto":
            return self.config.negative_label
        return next((name for name in self.labels.names if name.casefold() in NEGATIVES), None)

    # Features -----------------------------------------------------------------------------------

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Raises ConfigError for class weights that do not fit the labels."""
        super().prepare(tokenizer, max_length=max_length)
        self._frame = find_frame(tokenizer)
        if self.labels.names:
            self._weights  # noqa: B018  A name that is no label is found now.

    def encode(self, example: Example) -> list[Arrays]:
        """One feature. Raises DataError where the two entities alone are more than the model takes."""
        ids, first, second = self._tokens(example)
        room = self.max_length - self._frame.num_special
        kept = kept_tokens(first, second, len(ids), room)
        if kept is None:
            raise DataError(
                f"the two entities have {first[1] - first[0] + second[1] - second[0]} tokens with their markers, "
                f"the most is {room}",
                slug="too-long",
                where=example.where(),
                help="raise model.max_length, or mark the names of the entities alone",
            )
        arrays = self._frame.around(np.concatenate([ids[start:end] for start, end in kept]))
        if "label" in example.values:
            names, label = self.labels.names, example.values["label"]
            arrays["labels"] = np.array([names.index(label) if label in names else IGNORED], np.int32)
        return [arrays]

    def num_tokens(self, example: Example) -> int:
        return len(self._tokens(example)[0]) + self._frame.num_special

    # Model --------------------------------------------------------------------------------------

    def model_options(self) -> dict[str, Any]:
        kind = "single_label_classification"
        return {**super().model_options(), "problem_type": kind, "pad_token_id": self.pad_token_id}

    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Cross-entropy; logits (B, C)."""
        from chainft.models.losses import cross_entropy_sum

        return cross_entropy_sum(
            output.logits,
            batch.targets["labels"].squeeze(1),
            label_smoothing=self.config.label_smoothing,
            class_weights=self._weights_on(output.logits.device),
        )

    def num_targets(self, batch: Batch) -> float:
        """Pairs, or the sum of the weights of their labels."""
        from chainft.models.losses import weight_sum

        labels = batch.targets["labels"]
        return weight_sum(labels, self._weights_on(labels.device))

    # Prediction ---------------------------------------------------------------------------------

    def raw(self, output: Any, batch: Batch) -> Sequence[np.ndarray]:
        """The logits of each pair, (C,)."""
        return list(output.logits.float().cpu().numpy())

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        """`direction` is `head->tail` or `tail->head`, null for labels that say none."""
        pair = pair_of(example)
        scores = classes.by_name(self.labels.names, classes.softmax(raw))
        label, score = next(iter(scores.items()))
        relation, direction = parse_label(label)
        answer = {"label": label, "relation": relation, "direction": direction, "score": score, "scores": scores}
        return {"text": pair.text, "head": _shown(pair, pair.head), "tail": _shown(pair, pair.tail), **answer}

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A text with marks, or an object with `text` and, unless that has marks, the places `head` and `tail`."""
        given = {"text": value} if isinstance(value, str) else value
        values: dict[str, Any] = {}
        for field in self.fields:
            names = [name for name in (field.name, *field.aliases) if given.get(name) is not None]
            if names and not field.gold:
                values[field.name] = given[names[0]]
        text = take(values or given, ("text",), where=where)
        values["text"] = checked_text(text, "text", where=where)
        self._check_types(read_pair(values, where), where)
        return text_example(values, where)

    # Scores -------------------------------------------------------------------------------------

    def gold(self, example: Example) -> dict[str, Any]:
        """What `chainft.metrics.relations` takes."""
        distance = len(pair_of(example).between.split())
        return {"label": str(example.values["label"]), "negative": self.negative_label, "distance": distance}

    def predicted(self, prediction: Prediction) -> str:
        return str(prediction["label"])

    def metrics(self) -> list[Metric]:
        return make_metrics(self.config.metrics, self.metric_family)

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """`majority`: the most frequent label; `words_between` and `bag_of_words`: TF-IDF and logistic regression on
        the words between the entities, and on the whole text."""
        labels = [str(one.values["label"]) for one in train]
        most = Counter(labels).most_common(1)[0][0]
        found: dict[str, Baseline] = {"majority": lambda example: most}
        texts: dict[str, Callable[[Pair], str]] = {"words_between": _between, "bag_of_words": lambda pair: pair.text}
        for name, text_of in texts.items():
            learned = bag_of_words([text_of(pair_of(one)) for one in train], labels)
            if learned is not None:
                found[name] = _answer(learned, text_of)
        return found

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        gold, label = str(example.values["label"]), self.predicted(prediction)
        if gold == label:
            return None
        pair = pair_of(example)
        marks = (Mark(pair.head.start, pair.head.end, "head"), Mark(pair.tail.start, pair.tail.end, "tail"))
        return Mistake(prediction["score"], pair.text, gold, label, marks, marks)

    # Parts --------------------------------------------------------------------------------------

    def _check_types(self, pair: Pair, where: str) -> None:
        if self.config.markers == "typed" and None in (pair.head.type, pair.tail.type):
            raise DataError(
                "task.markers = 'typed', but the type of an entity is not given",
                slug="no-type",
                where=where,
                key="task.markers",
                help="give it in head and tail or as head_type and tail_type, or set task.markers=punct",
            )

    def _tokens(self, example: Example) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """(tokens,) ids of the whole marked text, and the tokens of the entity that stands first and of the other."""
        text, *places = pair_of(example).marked(self.config.markers)
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, padding=False, verbose=False
        )
        first, second = (_within(encoded["offset_mapping"], place) for place in sorted(places))
        return np.array(encoded["input_ids"], np.int32), first, second

    @cached_property
    def _weights(self) -> np.ndarray | None:
        """(C,) class weights. A trained model that is only evaluated knows the counts for `balanced` from training."""
        return weights_of(self.config.class_weights, self.labels.names, self.labels.counts, key="task.class_weights")

    def _weights_on(self, device: torch.device) -> Tensor | None:
        import torch

        return None if self._weights is None else torch.from_numpy(self._weights).to(device)


def _within(offsets: Sequence[tuple[int, int]], place: tuple[int, int]) -> tuple[int, int]:
    """The tokens that have a character of `place`."""
    inside = [number for number, (start, end) in enumerate(offsets) if start < place[1] and end > place[0]]
    return inside[0], inside[-1] + 1


def _between(pair: Pair) -> str:
    return pair.between


def _answer(learned: Callable[[Sequence[str]], list[str]], text_of: Callable[[Pair], str]) -> Baseline:
    return Together(lambda examples: learned([text_of(pair_of(one)) for one in examples]))


def _shown(pair: Pair, one: Entity) -> dict[str, Any]:
    found: dict[str, Any] = {"text": pair.text[one.start : one.end], "start": one.start, "end": one.end}
    return found if one.type is None else found | {"type": one.type}


PLUGIN = Relation

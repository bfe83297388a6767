"""Entities of a text and the relations between them: a pipeline in one chain, with two heads on one trunk.

The head `entities` tags words (`chainft.tasks.ner`); the head `relations` names the relation of a pair of entities that
are marked in the text (`chainft.tasks.relation`). Both learn from the annotated entities. In prediction and evaluation
the text goes through the trunk once for its entities, and once more for each pair of those that were *found*. Pairs
without a relation are learned from the same texts. This is the pipeline of Zhong & Chen 2021 (arXiv:2010.12812, section
3), with one trunk instead of two. An example has features of two kinds: windows of its text, and one for each pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import CheckpointError, ConfigError, DataError, Problem, did_you_mean
from chainft.metrics.base import make_metrics
from chainft.tasks._extract_baselines import baselines
from chainft.tasks._extract_config import ExtractConfig
from chainft.tasks._extract_findings import findings
from chainft.tasks._extract_rows import cut_entities, pair_examples, pair_values, related_types, shown, tagged
from chainft.tasks._heads import Heads
from chainft.tasks._joint_rows import has_part, own_row, split_row
from chainft.tasks._ner_config import NerConfig
from chainft.tasks.base import About, Arrays, Baseline, Field, Labels, Mark, Metric, Mistake, Prediction, Task
from chainft.tasks.ner import Ner
from chainft.tasks.relation import Relation, RelationConfig
from chainft.text import classes
from chainft.text.annotations import NO_RELATION, annotated, annotation_problems
from chainft.text.inputs import checked_text, take, text_example, text_problems
from chainft.text.labels import Census, label_set
from chainft.text.pairs import (
    PairRule,
    TypePair,
    answer,
    facts_of_answers,
    facts_of_links,
    label_names,
    place,
    place_of,
)
from chainft.text.relations import Entity, parse_label

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAIR = "relations.pair"
"""Column of a follow-up: the numbers of the two entities, the one that stands first before the other."""


class Extract(Heads):
    """`fields` are what data hold; prediction takes a text alone."""

    config_class: ClassVar[type[TaskConfig]] = ExtractConfig
    config: ExtractConfig
    fields: ClassVar[tuple[Field, ...]] = (
        Field("text", "text", aliases=("sentence", "content")),
        Field("entities", "value", aliases=("spans", "mentions"), gold=True),
        Field("relations", "value", aliases=("links", "triples"), gold=True),
    )
    main_metric: ClassVar[str] = "relation_strict_f1_micro"
    metric_family: ClassVar[str] = "extraction"
    about: ClassVar[About] = About(
        "Entities and relations",
        purpose="finds entities in a text and the relations between them",
        sample="Ada works for Acme in Paris.",
        limit="It names at most one relation of two entities, and none of an entity that it does not find.",
    )

    def __init__(self, config: ExtractConfig) -> None:
        if problems := list(config.wrong_settings()):
            raise ConfigError.of(problems)
        super().__init__(config, _tasks(config), config.weights)
        self.metrics()  # A wrong name is found before any data are read.
        self._seen: frozenset[TypePair] = frozenset()

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        wrong = list(text_problems(example.values.get("text"), "text", example.where()))
        yield from wrong
        if not wrong:
            yield from annotation_problems(example.values, example.where(), symmetric=self.config.symmetric)

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        """Types of entities, relations, and which types are related in train. Raises DataError for names that only other
        splits have."""
        types: dict[Split, Census] = {split: Census() for split in splits}
        names: dict[Split, Census] = {split: Census() for split in splits}
        for split, rows in splits.items():
            for row in rows:
                _, entities, links = annotated(row)
                for entity in entities:
                    types[split].add(str(entity.type), row.where())
                for link in links:
                    names[split].add(link.name, row.where())
        relations = label_set(names, unseen=unseen, what="relation")
        kinds = label_set(types, unseen=unseen, what="entity type")
        counts = types["train"].counts if "train" in types else Counter()
        tags = ("O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))
        self.tasks["entities"].labels = Labels(tags, {f"B-{kind}": counts[kind] for kind in kinds})
        train = splits.get("train", ())
        self._seen = frozenset(pair for row in train for pair in related_types(row))
        labels = label_names(relations, self.config.symmetric)
        self.tasks["relations"].labels = Labels(
            labels, Counter(one.values["label"] for row in train for one in self._pairs(row))
        )

    @property
    def learned(self) -> Mapping[str, Any]:
        return {"type_pairs": sorted(map(list, self._seen))}

    def remember(self, learned: Mapping[str, Any]) -> None:
        """Raises ConfigError where `symmetric` is not what the labels were made with, CheckpointError for damage."""
        pairs = learned.get("type_pairs")
        if not isinstance(pairs, list) or not all(isinstance(one, list) and len(one) == 2 for one in pairs):
            raise CheckpointError(f"the pairs of types that may be related are {pairs!r}, not a list", slug="damaged")
        self._seen = frozenset((str(one), str(other)) for one, other in pairs)
        self._check_symmetric()

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        cut = partial(cut_entities, self.tokenizer) if hasattr(self, "tokenizer") else None
        yield from findings(splits, self.rule, self.config.symmetric, cut)

    @property
    def rule(self) -> PairRule:
        """Which pairs are asked."""
        seen = None if self.config.type_pairs == "all" else self._seen
        return PairRule(seen, self.config.max_distance, self.config.max_pairs)

    # Features -----------------------------------------------------------------------------------

    @property
    def feature_key(self) -> str:
        return str(self.learned)

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Raises ConfigError for a symmetric relation that is none."""
        self._check_symmetric()
        super().prepare(tokenizer, max_length=max_length)

    def encode(self, example: Example) -> list[Arrays]:
        """The windows of the text, then the pairs of its entities, where these are told."""
        windows = self.tasks["entities"].encode(tagged(self.tokenizer, example))
        rows = [_row("entities", self.tasks["entities"], window, len(windows)) for window in windows]
        pairs = self._pairs(example) if "entities" in example.values else []
        for pair in pairs:
            (window,) = self.tasks["relations"].encode(pair)
            rows.append(_row("relations", self.tasks["relations"], window, len(pairs)))
        return rows

    def num_tokens(self, example: Example) -> int:
        return self.tasks["entities"].num_tokens(tagged(self.tokenizer, example))

    # Model --------------------------------------------------------------------------------------

    def planned(self) -> Task:
        twin = Extract(replace(self.config, crf=False))
        twin.labels = self.labels
        return twin

    # Prediction ---------------------------------------------------------------------------------

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        """The entities. Where the right ones are told, also `relations_given_entities`, those between these."""
        mine = [
            (own_row(row, "entities"), one["entities"])
            for row, one in zip(windows, raw, strict=True)
            if has_part(row, "entities")
        ]
        found = self.tasks["entities"].decode(
            text_example({"text": example.values["text"]}, example.where()),
            [row for row, _ in mine],
            [one for _, one in mine],
        )
        prediction: Prediction = {"text": found["text"], "entities": found["entities"], "relations": []}
        if "entities" in example.values:
            text, entities, _ = annotated(example)
            logits = [one["relations"] for one in raw if "relations" in one]
            pairs = self.rule.pairs(text, entities)
            prediction["relations_given_entities"] = self._answers(text, entities, pairs, logits)
        return prediction

    def follow_up(self, example: Example, prediction: Prediction) -> list[Arrays]:
        """A feature for each pair of the entities that were found; none for two that alone are more than the model reads."""
        text, entities, rows = prediction["text"], _entities(prediction), []
        for first, second in self.rule.pairs(text, entities):
            pair = text_example(pair_values(text, entities[first], entities[second]), example.where())
            try:
                (window,) = self.tasks["relations"].encode(pair)
            except DataError:  # Too long: an error of data, but entities that a model made up end no prediction.
                continue
            row = _row("relations", self.tasks["relations"], window, 1)
            rows.append(row | {PAIR: np.array([first, second], np.int32)})
        return rows

    def concluded(self, prediction: Prediction, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        """`relations`: those between the entities that were found, `head` and `tail` as in the data."""
        pairs = [(int(row[PAIR][0]), int(row[PAIR][1])) for row in windows]
        logits = [one["relations"] for one in raw]
        return prediction | {"relations": self._answers(prediction["text"], _entities(prediction), pairs, logits)}

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """A line of text, or an object with `text`; its other keys are not looked at."""
        field = self.fields[0]
        text = value if isinstance(value, str) else take(value, (field.name, *field.aliases), where=where)
        return text_example({"text": checked_text(text, "the text", where=where)}, where)

    # Scores -------------------------------------------------------------------------------------

    def gold(self, example: Example) -> dict[str, Any]:
        """What `chainft.metrics.extraction` takes."""
        text, entities, links = annotated(example)
        return {
            "entities": [place_of(place(text, one)) for one in entities],
            "relations": list(facts_of_links(links, entities, self.config.symmetric)),
        }

    def predicted(self, prediction: Prediction) -> dict[str, Any]:
        return {
            "entities": list(map(place_of, prediction["entities"])),
            "relations": list(facts_of_answers(prediction["relations"])),
            "given": list(facts_of_answers(prediction.get("relations_given_entities", ()))),
        }

    def metrics(self) -> list[Metric]:
        return make_metrics(self.config.metrics, self.metric_family)

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """Names of train looked up, with the relations that their types mostly have."""
        return baselines(train, self.rule, self.config.symmetric)

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        """Worst is the text with most entities and relations that are missed, wrong or made up."""
        gold, predicted = self.gold(example), self.predicted(prediction)
        wrong = sum(len(set(gold[name]) ^ set(predicted[name])) for name in ("entities", "relations"))
        if not wrong:
            return None
        told = [shown(example.values["text"], one["relations"]) for one in (gold, predicted)]
        marks = [tuple(Mark(*one) for one in sorted(found["entities"])) for found in (gold, predicted)]
        return Mistake(float(wrong), example.values["text"], told[0], told[1], marks[0], marks[1])

    # Parts --------------------------------------------------------------------------------------

    def _check_symmetric(self) -> None:
        """Of the data in training, of the model later: a label without direction is a symmetric relation."""
        labels = self.tasks["relations"].labels.names
        known = {parse_label(one)[0]: parse_label(one)[1] is None for one in labels if one != NO_RELATION}
        for name in self.config.symmetric:
            if name not in known:
                raise ConfigError(
                    f"task.symmetric names {name!r}, which is no relation; there are: {', '.join(known)}",
                    slug="unknown-label",
                    key="task.symmetric",
                    help=did_you_mean(name, list(known)),
                )
        if other := [name for name, is_symmetric in known.items() if is_symmetric != (name in self.config.symmetric)]:
            raise ConfigError(
                f"task.symmetric = {list(self.config.symmetric)}, but the model was trained otherwise: {other[0]!r}",
                slug="other-task",
                key="task.symmetric",
                help="leave it as it was in training",
            )

    def _pairs(self, example: Example) -> list[Example]:
        return pair_examples(example, self.rule, self.config.symmetric)

    def _answers(
        self, text: str, entities: Sequence[Entity], pairs: Sequence[tuple[int, int]], logits: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        """The relations of the pairs that have one; `logits`: (C,) of each pair."""
        found = []
        for (first, second), one in zip(pairs, logits, strict=True):
            scores = classes.softmax([one])
            label = self.tasks["relations"].labels.names[int(scores.argmax())]
            if label != NO_RELATION:
                found.append(answer(text, (entities[first], entities[second]), label, float(scores.max())))
        return found


def _tasks(config: ExtractConfig) -> dict[str, Task]:
    return {
        "entities": Ner(NerConfig(scheme="iob2", crf=config.crf)),
        "relations": Relation(RelationConfig(markers=config.markers, negative_label=NO_RELATION)),
    }


def _row(name: str, task: Task, window: Arrays, parts: int) -> Arrays:
    trunk, own = split_row(name, task, window, 1 / parts)
    return trunk | own


def _entities(prediction: Prediction) -> list[Entity]:
    return [Entity(one["start"], one["end"], one["type"]) for one in prediction["entities"]]


PLUGIN = Extract

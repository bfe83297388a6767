"""What a task is: the one interface between data, model, loss, prediction and metrics.

Flow of one example through a task::

    Example --validate, learn_labels--> encode --> features (named arrays, one or more windows)
    features --collate (chainft.data.batching)--> Batch --model--> output --loss--> (sum, count)
                                                              output --raw--> one raw result a feature
    raw results of all windows of an example --decode--> prediction (plain JSON values)
    (gold, predicted) --metrics--> Scores (numbers, tables, confusion)

A task is one module that binds its class to `PLUGIN`, imports torch only inside the methods that
compute (so that configs are checked without it), and one YAML. Shapes: B batch, L length, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.errors import CheckpointError, Problem
from chainft.tasks._about import About
from chainft.tasks._baseline import Baseline, Together
from chainft.tasks._scores import Chart, Confusion, Mark, Mistake, Scores, Series, Table, merge_scores

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from chainft.data.batching import Batch
    from chainft.models.task_modules import TaskModule

__all__ = [
    "AUTO",
    "About",
    "Arrays",
    "Baseline",
    "BatchResult",
    "Chart",
    "Column",
    "Confusion",
    "Field",
    "Labels",
    "Mark",
    "Metric",
    "Mistake",
    "Prediction",
    "Scores",
    "Series",
    "Table",
    "Task",
    "Together",
    "merge_scores",
]

Arrays = dict[str, np.ndarray]
"""One feature: for each column its one-dimensional array."""
Prediction = dict[str, Any]
"""What is predicted for one example: plain JSON values; one line of `chainft predict`."""
AUTO = "auto"
"""Value of a setting that is chosen on validation."""


@dataclass(frozen=True)
class Field:
    """A value that the task reads from each example."""

    name: str
    kind: Literal["text", "texts", "label", "labels", "tags", "value"]
    """text: str · texts: list of str (words) · label: str · labels: list of str · tags: list of str, one a word ·
    value: anything JSON can hold, checked by the task (answers with their places, relations, ...)."""
    required: bool = True
    aliases: tuple[str, ...] = ()
    """Column names that are tried, in this order, after `name` when the config maps none."""
    gold: bool = False
    """The answer: present in training and evaluation data, absent in `chainft predict`."""


@dataclass(frozen=True)
class Column:
    """An array that each feature has: how it is stored, padded and passed on."""

    pad: int | Literal["pad_token"]
    """Value in padded places; `pad_token`: the tokenizer's."""
    dtype: Literal["int32", "float32"] = "int32"
    axis: str | None = "tokens"
    """What its entries count: columns of one axis have the same length in a feature and are padded together, to the
    longest of the batch. `tokens` is the axis of `input_ids`; a decoder's input and labels have one of their own.
    None: the same number of entries in every feature, never padded."""
    model_input: bool = False
    """Passed to the model's forward under this name; otherwise only `loss` and `raw` see it."""


class Metric(ABC):
    """Counts over (gold, predicted) pairs in constant memory; a plug-in of kind `metric`."""

    family: ClassVar[str]
    """What `update` receives: `tags` (a list of tags), `label` (one), `labels` (a list), `text` (a string), or the name
    of a form that a plug-in's task and metric agree on."""

    needs_scores: ClassVar[bool] = False
    """Whether `update` receives the whole `Prediction`, with its scores, instead of the answer alone. Such a metric is
    not counted for baselines, which have none."""

    @abstractmethod
    def update(self, gold: Any, predicted: Any) -> None:
        """Count one example."""

    @abstractmethod
    def compute(self) -> Scores:
        """The scores of all examples since the start; defined (0.0 or absent, never an error) for none."""


@dataclass(frozen=True)
class BatchResult:
    """What one forward pass of evaluation yields."""

    raw: Sequence[Any]
    """One raw result a feature of the batch, in its order: small (no logits of whole vocabularies)."""
    losses: Mapping[str, tuple[float, float]]
    """Sum of losses and number of targets; of several tasks by their names, of one task under ""."""


@dataclass
class Labels:
    """The ordered class names of a task; index = class id. Empty for generation."""

    names: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """How often training examples have each, for class weights."""

    def id_of(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}


class Task(ABC):
    """A kind of learning problem. One instance serves one run; `labels` and `tokenizer` are set on the way."""

    config_class: ClassVar[type[TaskConfig]]
    fields: ClassVar[tuple[Field, ...]]
    features: ClassVar[Mapping[str, Column]]
    auto_class: ClassVar[str]
    """Class of `transformers` that brings the head, for example `AutoModelForTokenClassification`."""
    tasks: Mapping[str, Task] = MappingProxyType({})
    """Of several tasks that are learned together, each by its name; else empty."""
    has_own_data: ClassVar[bool] = True
    """Whether it reads one set of data; False: each of `tasks` has its own, in `data.tasks`."""
    main_metric: ClassVar[str]
    """Key of `Scores.values` that chooses the best checkpoint unless the config names another."""
    metric_family: ClassVar[str]
    about: ClassVar[About] = About()
    default_model: ClassVar[str] = "starter"
    """Value of the group `model` that is trained where none is named."""
    architecture: PreTrainedConfig | None = None
    """The config of the model, once `adapt` brought it."""
    needs_offsets: ClassVar[bool] = True
    """Whether the tokenizer must say where its tokens stand in the text, which only fast ones do."""
    tuned_fields: ClassVar[tuple[str, ...]] = ()
    """Settings of the config that `auto` leaves to `tuned`; until then `decode` takes a default of the task."""

    def __init__(self, config: TaskConfig) -> None:
        self.config = config
        self.labels = Labels()
        self.tokenizer: PreTrainedTokenizerBase
        self.max_length: int

    @classmethod
    def default_data(cls, settings: Mapping[str, Any]) -> str:
        """Value of the group `data` that is used where neither it nor a file is given, if there is such a value.

        `settings`: those of the node `task` that are set, unchecked.
        """
        return f"starter_{settings.get('name')}"

    # Data ---------------------------------------------------------------------------------------

    @abstractmethod
    def validate(self, example: Example) -> Iterator[Problem]:
        """What is wrong with one example by itself (types, lengths, illegal tags), with `where` set."""

    def arranged(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The sound examples of a split, as they stand in its files, each with what it needs to know of the others."""
        return examples

    def common_cause(self, split: Split, sound: Sequence[Example], refused: Sequence[Example]) -> Problem | None:
        """One problem that explains all examples of a split that `validate` refused; None: they are told one by one."""
        return None

    def grouped(self, split: Split, examples: Sequence[Example]) -> Sequence[Example]:
        """The examples of a split, cuts made, as the task takes them: rows of one question as one, or one as several."""
        return examples

    @abstractmethod
    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        """Set `labels` from train. Raises DataError for labels that only other splits have, unless allowed."""

    @property
    def learned(self) -> Mapping[str, Any]:
        """What `learn_labels` learned beside the labels, as JSON holds it: saved with the model, back by `remember`."""
        return {}

    def remember(self, learned: Mapping[str, Any]) -> None:
        """Take back what `learned` was when the model was saved; the labels are set. Raises CheckpointError."""
        if learned:
            raise CheckpointError(f"task {self.config.name!r} learned nothing of {sorted(learned)}", slug="damaged")

    @property
    def foreign_labels(self) -> frozenset[str]:
        """Labels that validation and test may have though the model never learns them: what it has to reject."""
        return frozenset()

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        """Findings over whole splits that only this task can see; general ones are in `chainft.data.contract`."""
        yield from ()

    def stratum(self, example: Example) -> str | None:
        """The class by which a cut of the data is stratified; None where there is no single one."""
        return None

    # Features -----------------------------------------------------------------------------------

    def adapt(self, architecture: PreTrainedConfig) -> None:
        """Receive the config of the model, before `prepare`: a task may treat kinds of models differently."""
        self.architecture = architecture

    def auto_class_for(self, architecture: PreTrainedConfig) -> str:
        """The class of `transformers` that brings the head for such a model."""
        return self.auto_class

    @property
    def feature_key(self) -> str:
        """What features depend on beside examples, settings, labels, tokenizer, `max_length` and code."""
        return ""

    def prepare(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> None:
        """Receive the tokenizer and the most tokens a sequence may have, before `encode`."""
        self.tokenizer = tokenizer
        self.max_length = max_length

    @property
    def pad_token_id(self) -> int:
        """Fills padded places, which the attention mask hides: the tokenizer's pad token, else 0."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if isinstance(pad, int) else 0

    @abstractmethod
    def encode(self, example: Example) -> list[Arrays]:
        """The features of an example: one, or several windows where it is over-long; without gold if absent.

        Holds the columns of `features` and may hold more that only `decode` needs; those are not stored.
        """

    def num_tokens(self, example: Example) -> int:
        """Tokens of the whole example, special ones included, before it is cut; by default those of its features."""
        return sum(len(feature["input_ids"]) for feature in self.encode(example))

    def collate(self, rows: Sequence[Arrays], features: Sequence[int]) -> Batch:
        """A batch of features of this task; `features` are their numbers in the store."""
        from chainft.data.batching import collate

        return collate(rows, self, features)

    # Model --------------------------------------------------------------------------------------

    def arguments(self, batch: Batch) -> dict[str, Any]:
        """What the forward pass of the model receives."""
        return dict(batch.inputs)

    def balanced(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """The micro-batches of one update, after what their losses need to know of all of them was put in."""
        return batches

    def model_options(self) -> dict[str, Any]:
        """Entries of the Hugging Face config that the head needs: `id2label`, `label2id`, `problem_type`, ..."""
        names = self.labels.names
        return {"id2label": dict(enumerate(names)), "label2id": self.labels.id_of()} if names else {}

    def modules(self) -> Mapping[str, TaskModule]:
        """New modules that the task computes with beside the head, by name: they are put on the model, trained and saved
        with it. The task uses those that it gave last; `labels` is set."""
        return {}

    def planned(self) -> Task:
        """The task whose loss `chainft plan` measures: this one, unless its operations change with the length."""
        return self

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> Tensor:
        """The *sum* of the losses of all targets of the batch: a float32 scalar; the caller normalises."""

    @abstractmethod
    def num_targets(self, batch: Batch) -> float:
        """What the sum of losses is divided by: targets (weighted by class where the loss is)."""

    # Prediction ---------------------------------------------------------------------------------

    @abstractmethod
    def raw(self, output: Any, batch: Batch) -> Sequence[Any]:
        """One small raw result (numpy on CPU) a feature, from the model's output."""

    @property
    def evaluates_by_forward(self) -> bool:
        """Whether evaluation is one forward pass of the batch, as training is: kept outputs of frozen stages serve."""
        return type(self).infer is Task.infer

    def infer(self, model: PreTrainedModel, batch: Batch) -> BatchResult:
        """One evaluation pass; called in inference mode. A task that generates overrides it."""
        return self.result(model(**self.arguments(batch)), batch)

    def result(self, output: Any, batch: Batch) -> BatchResult:
        """What the output of one forward pass says about a batch."""
        count = self.num_targets(batch) if batch.has_targets else 0.0
        loss_sum = float(self.loss(output, batch)) if count else 0.0
        return BatchResult(self.raw(output, batch), {"": (loss_sum, count)})

    @abstractmethod
    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        """Join the raw results of all windows of an example (in order) to its prediction."""

    def follow_up(self, example: Example, prediction: Prediction) -> list[Arrays]:
        """Features that go through the model once more, because of what `decode` found; most tasks have none."""
        return []

    def concluded(self, prediction: Prediction, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        """The prediction with the raw results of its follow-up."""
        return prediction

    @abstractmethod
    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """An example without gold from a line of text or a JSON object. Raises DataError at `where`."""

    # Scores -------------------------------------------------------------------------------------

    @abstractmethod
    def gold(self, example: Example) -> Any:
        """The answer in the form that metrics of `metric_family` take."""

    @abstractmethod
    def predicted(self, prediction: Prediction) -> Any:
        """The prediction in the same form."""

    @abstractmethod
    def metrics(self) -> list[Metric]:
        """Fresh metric counters, as the config chooses them."""

    def baselines(self, train: Sequence[Example]) -> Mapping[str, Baseline]:
        """Simple answers that a trained model must beat, by name (majority, copy, ...), learned from `train` alone.

        One that is quicker for many examples at once is a `Together`.
        """
        return {}

    @property
    def needs_tuning(self) -> bool:
        """Whether settings of the decision are still to be chosen on validation, such as a threshold."""
        return any(getattr(self.config, name) == AUTO for name in self.tuned_fields)

    def tuned(self, pairs: Iterable[tuple[Example, Prediction]]) -> TaskConfig:
        """The config with those settings filled in, by the predictions of the best weights on validation examples.

        None in `pairs`: there is no validation, and the task says what it takes instead. The rest of the config, and
        what `raw` gives, stay as they are: only `decode` may change with it.
        """
        return self.config

    def loss_scores(self, loss: float | None) -> Mapping[str, float]:
        """Scores that follow from the mean loss alone, such as perplexity."""
        return {}

    def all_loss_scores(self, losses: Mapping[str, float]) -> Mapping[str, float]:
        """The mean loss and what follows from it; `losses` as in `BatchResult`, without those of no target."""
        loss = losses.get("")
        return {**({} if loss is None else {"loss": loss}), **self.loss_scores(loss)}

    @abstractmethod
    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        """How the prediction is wrong, for the report; None where it is right."""

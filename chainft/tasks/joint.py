"""Several tasks on one trunk: the task `joint`. Each text goes through the trunk once and then to the heads.

An example holds the values of the tasks that it is for, by their names; training data have one each, and a text that
a user brings has all. Tasks whose inputs are equal token by token share a feature, so its columns are those of the
trunk's inputs, and for each of its tasks `<task>.<column>`. Letters: B rows, b of them of one task, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

from chainft.config.joint import RESERVED, JointConfig
from chainft.config.run import TaskConfig
from chainft.data.example import Example, Finding, Split
from chainft.data.joint import inner, named, of_task
from chainft.errors import ConfigError, Problem, did_you_mean
from chainft.metrics._direction import falls
from chainft.metrics._joint import MEAN, JointMetric
from chainft.registry import find
from chainft.tasks._heads import Heads
from chainft.tasks._joint_rows import has_part, own_row, same_inputs, split_row
from chainft.tasks.base import About, Arrays, Field, Metric, Mistake, Prediction, Task


class Joint(Heads):
    """Tasks that are learned together. `Joint(config)` gives one that is chosen by the mean of their main metrics."""

    config_class: ClassVar[type[TaskConfig]] = JointConfig
    config: JointConfig
    fields: ClassVar[tuple[Field, ...]] = ()
    has_own_data: ClassVar[bool] = False
    main_metric: ClassVar[str] = MEAN
    metric_family: ClassVar[str] = "joint"
    about: ClassVar[About] = About(
        "Several tasks on one trunk", sample="I ordered a lamp from Siemens in Berlin and it has not arrived."
    )

    def __new__(cls, config: TaskConfig) -> Self:
        """Where a main metric falls, such as a loss, there is no mean of scores: the loss chooses."""
        assert isinstance(config, JointConfig)
        falling = any(falls(task.main_metric) for task in _tasks(config).values())
        chosen: Any = (JointByLoss if falling else Joint) if cls is Joint else cls
        made: Self = super().__new__(chosen)
        return made

    def __init__(self, config: JointConfig) -> None:
        super().__init__(config, _tasks(config), config.weights)
        _check_weights(config)

    # Data ---------------------------------------------------------------------------------------

    def validate(self, example: Example) -> Iterator[Problem]:
        for name in example.values:
            yield from self.tasks[name].validate(inner(example, name))

    def learn_labels(self, splits: Mapping[Split, Sequence[Example]], *, unseen: Literal["error", "allow"]) -> None:
        for name, task in self.tasks.items():
            with named(name):
                task.learn_labels(of_task(splits, name), unseen=unseen)

    @property
    def foreign_labels(self) -> frozenset[str]:
        return frozenset(f"{name}/{label}" for name, task in self.tasks.items() for label in task.foreign_labels)

    def contract(self, splits: Mapping[Split, Sequence[Example]]) -> Iterator[Finding]:
        """Nothing: the contract looks at each task by itself."""
        yield from ()

    # Features -----------------------------------------------------------------------------------

    def encode(self, example: Example) -> list[Arrays]:
        rows: list[Arrays] = []
        for name in example.values:
            task, after = self.tasks[name], 0
            windows = task.encode(inner(example, name))
            for window in windows:
                trunk, own = split_row(name, task, window, 1 / len(windows))
                place = next((i for i in range(after, len(rows)) if same_inputs(rows[i], trunk)), len(rows))
                rows[place : place + 1] = [{**trunk, **(rows[place] if place < len(rows) else {}), **own}]
                after = place + 1
        return rows

    def num_tokens(self, example: Example) -> int:
        return max(self.tasks[name].num_tokens(inner(example, name)) for name in example.values)

    def planned(self) -> Task:
        configs = {name: task.planned().config for name, task in self.tasks.items()}
        twin = Joint(replace(self.config, tasks=configs))
        twin.labels = self.labels
        return twin

    # Prediction ---------------------------------------------------------------------------------

    def decode(self, example: Example, windows: Sequence[Arrays], raw: Sequence[Any]) -> Prediction:
        return {
            name: self.tasks[name].decode(
                inner(example, name),
                [own_row(window, name) for window in windows if has_part(window, name)],
                [one[name] for window, one in zip(windows, raw, strict=True) if has_part(window, name)],
            )
            for name in example.values
        }

    def read_input(self, value: str | Mapping[str, Any], *, where: str) -> Example:
        """What all tasks read, each in its own way."""
        found = {name: task.read_input(value, where=where) for name, task in self.tasks.items()}
        first = next(iter(found.values()))
        return replace(first, values={name: one.values for name, one in found.items()})

    # Scores -------------------------------------------------------------------------------------

    def gold(self, example: Example) -> dict[str, Any]:
        return {name: self.tasks[name].gold(inner(example, name)) for name in example.values}

    def predicted(self, prediction: Prediction) -> dict[str, Any]:
        return {name: self.tasks[name].predicted(one) for name, one in prediction.items()}

    @property
    def needs_tuning(self) -> bool:
        return any(task.needs_tuning for task in self.tasks.values())

    def tuned(self, pairs: Iterable[tuple[Example, Prediction]]) -> TaskConfig:
        """Each task's settings by the validation examples that are for it."""
        kept = list(pairs)
        for name, task in self.tasks.items():
            if task.needs_tuning:
                task.config = task.tuned((inner(one, name), made[name]) for one, made in kept if name in one.values)
        return replace(self.config, tasks={name: task.config for name, task in self.tasks.items()})

    def metrics(self) -> list[Metric]:
        return [
            JointMetric(
                {name: task.metrics() for name, task in self.tasks.items()},
                {name: task.main_metric for name, task in self.tasks.items()},
                {name: task.predicted for name, task in self.tasks.items()},
            )
        ]

    def mistake(self, example: Example, prediction: Prediction) -> Mistake | None:
        """The worst of its tasks, with the task's name."""
        found = {
            name: mistake
            for name in example.values
            if (mistake := self.tasks[name].mistake(inner(example, name), prediction[name])) is not None
        }
        if not found:
            return None
        name = max(found, key=lambda one: found[one].badness)
        worst = found[name]
        return replace(worst, gold=f"{name}: {worst.gold}", predicted=f"{name}: {worst.predicted}")


class JointByLoss(Joint):
    """The best checkpoint is the one with the least loss."""

    main_metric: ClassVar[str] = "loss"


def _tasks(config: JointConfig) -> dict[str, Task]:
    """A task for each setting. Raises ConfigError where there are fewer than two, or one joins others itself."""
    if len(config.tasks) < 2:
        raise ConfigError(
            f"at least two tasks are learned together, and task.tasks names {len(config.tasks) or 'none'}",
            slug="missing-key",
            key="task.tasks",
            help="such as task.tasks.entities.name=ner task.tasks.intent.name=classify",
        )
    made: dict[str, Task] = {}
    for name, one in config.tasks.items():
        is_name = name.isidentifier() and not name.startswith("_") and name not in RESERVED
        if not is_name:
            message, help = f"no task can be named {name!r}", "letters, digits and _ make a name"
            help = f"such as {name}_task: torch needs this name itself" if name in RESERVED else help
            raise ConfigError(message, slug="bad-name", key="task.tasks", help=help)
        with named(name):
            made[name] = find("task", one.name, key="task.name")(one)
        if made[name].tasks:
            help = "name its tasks one by one"
            raise ConfigError(
                f"task {name!r} ({one.name}) is several tasks itself", slug="bad-name", key="task.tasks", help=help
            )
    return made


def _check_weights(config: JointConfig) -> None:
    for name in config.weights:
        if name not in config.tasks:
            raise ConfigError(
                f"no task is named {name!r}",
                slug="unknown-task",
                key=f"task.weights.{name}",
                help=did_you_mean(name, config.tasks) or f"the tasks are: {', '.join(config.tasks)}",
            )


PLUGIN = Joint

"""Reads the files of a run folder into typed facts: the only input of page and model card.

Files that a run has not written (yet) read as empty; one that is damaged raises CheckpointError. Only
`metrics.jsonl` grows while training and may end in a line cut by a kill: such lines are left out and counted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chainft.errors import CheckpointError
from chainft.run_folder import RunFolder
from chainft.tasks.base import Chart, Confusion, Mark, Mistake, Scores, Series, Table


@dataclass(frozen=True)
class Curves:
    """What `metrics.jsonl` tells, by step."""

    train: tuple[Mapping[str, Any], ...] = ()
    """Records of updates: step, epoch, loss, lr, grad_norm, ..."""
    evaluations: tuple[Mapping[str, Any], ...] = ()
    """Records of evaluations: split, step, epoch, values."""
    num_unreadable: int = 0


@dataclass(frozen=True)
class RunFacts:
    """All that is known of a run."""

    folder: RunFolder
    results: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    curves: Curves = Curves()
    mistakes: tuple[Mistake, ...] = ()

    @property
    def task(self) -> str:
        return str(self.results.get("task") or self.plan.get("task") or "unknown")

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return str(self.results.get("run") or self.folder.path.resolve().name)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(str(label) for label in self.plan.get("data", {}).get("labels") or ())

    @property
    def heads(self) -> tuple[str, ...]:
        """The tasks of a model that has several heads; empty for one head."""
        return tuple(str(name) for name in self.plan.get("model", {}).get("heads") or ())

    @property
    def chosen(self) -> bool:
        """Whether an evaluation chose the weights; else they are the last ones."""
        return self.outcome.validation is not None or bool(self.curves.evaluations)

    @property
    def outcome(self) -> Outcome:
        return outcome_of(self.results)


@dataclass(frozen=True)
class Outcome:
    """The scores of a run."""

    main_metric: str | None
    before: Scores | None
    """Test, before the first step."""
    after: Scores | None
    """Test, with the best weights."""
    validation: Scores | None
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Values of simple answers on the split that is shown, by the names of baseline and metric."""

    task_metrics: tuple[str, ...] = ()
    """The main metric of each of several tasks with data of their own, as `<task>/<metric>`."""

    @property
    def shown(self) -> tuple[str, Scores] | None:
        """The split whose tables are shown, with its scores: test where there is one."""
        if self.after:
            return "test", self.after
        return ("validation", self.validation) if self.validation else None


def read_run(folder: RunFolder) -> RunFacts:
    """Everything in the folder. Raises CheckpointError for a damaged file."""
    return RunFacts(
        folder=folder,
        results=_read_object(folder.results),
        plan=_read_object(folder.plan),
        card=_read_object(folder.path / "data_card.json"),
        environment=_read_object(folder.environment),
        config=folder.config.read_text(encoding="utf-8", errors="replace") if folder.config.is_file() else "",
        curves=read_curves(folder.metrics),
        mistakes=tuple(_mistake(record) for record in _records(folder.path / "mistakes.jsonl") if record),
    )


def read_curves(path: Path) -> Curves:
    """The steps and evaluations in `metrics.jsonl`; of a step written twice the later line holds."""
    train: dict[int, Mapping[str, Any]] = {}
    evaluations: dict[tuple[str, int], Mapping[str, Any]] = {}
    unreadable = 0
    for record in _records(path):
        if record is None or not isinstance(record.get("step"), int):
            unreadable += 1
        elif record.get("kind") == "train":
            train[record["step"]] = record
        elif record.get("kind") == "evaluation":
            evaluations[str(record.get("split")), record["step"]] = record
    by_step = sorted(evaluations.items(), key=lambda item: (item[0][1], item[0][0]))
    return Curves(tuple(train[step] for step in sorted(train)), tuple(record for _, record in by_step), unreadable)


def outcome_of(results: Mapping[str, Any]) -> Outcome:
    """The scores in the content of `all_results.json`."""
    test = results.get("test") or {}
    return Outcome(
        main_metric=results.get("main_metric"),
        before=scores_of(test.get("before")),
        after=scores_of(test.get("after")),
        validation=scores_of(results.get("validation")),
        baselines=results.get("baselines") or {},
        task_metrics=tuple(map(str, results.get("task_metrics") or ())),
    )


def scores_of(record: Mapping[str, Any] | None) -> Scores | None:
    """Scores from their JSON form; a value that was not finite is NaN."""
    if not record:
        return None
    return Scores(
        values={
            str(name): float(value) if isinstance(value, int | float) else math.nan
            for name, value in (record.get("values") or {}).items()
        },
        tables=tuple(
            Table(
                str(table["title"]),
                tuple(map(str, table["columns"])),
                tuple(tuple(row) for row in table["rows"]),
                str(table.get("note") or ""),
            )
            for table in record.get("tables") or ()
        ),
        confusions=tuple(
            Confusion(str(one["title"]), tuple(map(str, one["labels"])), tuple(tuple(row) for row in one["counts"]))
            for one in record.get("confusions") or ()
        ),
        charts=tuple(_chart(one) for one in record.get("charts") or ()),
        meanings={str(name): str(text) for name, text in (record.get("meanings") or {}).items()},
    )


def _chart(record: Mapping[str, Any]) -> Chart:
    series = tuple(
        Series(str(one["name"]), tuple((x if isinstance(x, str) else float(x), float(y)) for x, y in one["points"]))
        for one in record["series"]
    )
    kind: Any = "bar" if record.get("kind") == "bar" else "line"
    return Chart(str(record["title"]), str(record["note"]), str(record["x"]), series, kind)


def _mistake(record: Mapping[str, Any]) -> Mistake:
    return Mistake(
        badness=float(record["badness"]),
        text=str(record["text"]),
        gold=str(record["gold"]),
        predicted=str(record["predicted"]),
        gold_marks=_marks(record.get("gold_marks")),
        predicted_marks=_marks(record.get("predicted_marks")),
    )


def _marks(records: Any) -> tuple[Mark, ...]:
    return tuple(Mark(int(one["start"]), int(one["end"]), str(one["label"])) for one in records or ())


def _read_object(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path.name} is damaged: {error}", slug="damaged", where=str(path)) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path.name} holds {type(value).__name__}, not an object", slug="damaged", where=str(path)
        )
    return value


def _records(path: Path) -> Iterator[dict[str, Any] | None]:
    """Each line of a JSON lines file as an object; None where it is none."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                value = None
            yield value if isinstance(value, dict) else None

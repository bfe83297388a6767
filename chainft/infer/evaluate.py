"""Scores of a trained run on a split of its own data or on other data: what `chainft evaluate` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from chainft.config.run import RunConfig
from chainft.data.example import Example, Split
from chainft.data.load import load_splits
from chainft.data.store import open_store
from chainft.errors import DataError, Problem, did_you_mean
from chainft.infer.engine import score
from chainft.infer.forward import answering
from chainft.infer.precision import Precision
from chainft.infer.predict import make_engine
from chainft.infer.reads import probe_batch
from chainft.infer.trained import load_run
from chainft.registry import find
from chainft.stages.deferred_head import find_deferred_head
from chainft.tasks.base import Scores, Task


@dataclass(frozen=True)
class Evaluated:
    """Scores and how many examples they count."""

    scores: Scores
    num_examples: int


def evaluate_run(
    run: Path,
    config: RunConfig,
    split: Split,
    *,
    precision: Precision = "full",
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluated:
    """Score the model of `run` on `split` of the data that `config` names.

    Raises DataError for labels it never saw; with `data.unseen_labels: allow` they count as missed.
    """
    trained = load_run(run, config.task)
    splits = load_splits(config.data, trained.task, trains=False)
    examples = splits.examples.get(split, ())
    if not examples:
        key = f"data.{split}" if trained.task.has_own_data else f"data.tasks.NAME.{split}"
        raise DataError(
            f"the data have no {split} examples",
            slug="no-examples",
            key=key,
            help=f"name a file by {key}=FILE, or choose another --split",
        )
    if config.data.unseen_labels == "error":
        check_labels(trained.task, examples, split)
    store = open_store(
        examples,
        trained.task,
        cache_dir=Path(config.data.cache_dir) if config.data.cache_dir else None,
        split=split,
        progress=_named(progress, f"tokenise {split}"),
    )
    engine = make_engine(
        trained, batch_size=config.evaluation.batch_size, device=config.train.device, precision=precision
    )
    engine.forward = answering(trained.model, trained.task, store)
    if not trained.task.evaluates_by_forward and len(store) > 1:
        engine.deferred = find_deferred_head(trained.model, trained.task, probe_batch(trained.task, store))
    predicted = engine.predict_store(examples, store, progress=_named(progress, f"evaluate {split}"))
    return Evaluated(score(engine, predicted), len(examples))


def check_labels(task: Task, examples: Sequence[Example], split: Split) -> None:
    """Every label of the examples must be one that the model can predict."""
    if not task.labels.names:
        return
    probe: Task = find("task", task.config.name, key="task.name")(task.config)
    probe.learn_labels({"train": examples}, unseen="error")
    counts: Counter[str] = Counter(dict(probe.labels.counts))
    known = {*task.labels.names, *task.foreign_labels}
    unknown = [name for name in probe.labels.names if name not in known and counts[name]]
    if unknown:
        raise DataError.of(
            Problem(
                "unknown-label",
                f"{split} has the label {name!r} ({counts[name]} {'time' if counts[name] == 1 else 'times'}), which the model never learned",
                key=f"data.{split}" if task.has_own_data else f"data.tasks.{name.partition('/')[0]}.{split}",
                help=f"{did_you_mean(name, task.labels.names) or f'the model knows {_known(task)}.'} "
                "If it is right, set data.unseen_labels=allow (it counts as missed)",
            )
            for name in unknown
        )


def _known(task: Task, most: int = 10) -> str:
    names = task.labels.names
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _named(progress: Callable[[str, int, int], None] | None, name: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)

"""The end of a training: the best weights, what validation decides, the final scores, and all that a run leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chainft.config.parse import dump, parse
from chainft.config.run import RunConfig
from chainft.data.example import Split
from chainft.infer.engine import Engine
from chainft.run_folder import RunFolder
from chainft.tasks.base import Task
from chainft.train.baselines import score_baselines
from chainft.train.evaluations import Evaluations, Kept, read_pairs
from chainft.train.finish import WorstMistakes, score_and_write, scores_to_json, write_artefacts
from chainft.train.fit import Fit
from chainft.train.prepare import Prepared
from chainft.train.saved import Checkpoint

logger = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = ("validation", "test")

Engines = Callable[[Split], Engine]
"""Makes what predicts a split with the weights as they are."""


def conclude(config: RunConfig, prepared: Prepared, fit: Fit, *, folder: RunFolder, engine: Engines) -> dict[str, Any]:
    """Take the best weights, score them, write the artefacts; returns what `all_results.json` holds.

    All processes predict together; the main one counts and writes, and it alone has everything in the results.
    """
    world = fit.learner.world
    for table in fit.learner.tables:
        table.dissolve()
    best = fit.checkpoints.best() or fit.checkpoints.latest()
    if best is not None:
        fit.checkpoints.verify(best, "model")
        fit.learner.load(best.load("model"))
    if fit.learner.division is None:
        prepared.chain.merge()
    shown: Split = "test" if "test" in prepared.stores else "validation"
    worst = {split: WorstMistakes(config.report.max_mistakes if split == shown else 0) for split in SPLITS}
    ending = _Ending(prepared, fit, folder, engine, kept=_kept(prepared, fit, best) if world.is_main else None)
    tuned = ending.tune()
    scores: dict[str, Any] = {"validation": None, "test": None}
    if "validation" in prepared.stores:
        scores["validation"] = ending.validation(worst["validation"], tuned=tuned is not None)
    if "test" in prepared.stores:
        path = folder.predictions / "test.jsonl" if world.is_main else None
        found = score_and_write(engine("test"), prepared, "test", path=path, worst=worst["test"])
        scores["test"] = scores_to_json(found)
    results = _results(prepared.task, fit, best, scores) | {"run": folder.path.name, "tuned": tuned}
    if fit.learner.division is not None:
        fit.learner.division.dissolve()
    if not world.is_main:
        return results
    if config.evaluation.baselines and shown in prepared.stores:
        examples = prepared.splits.examples
        results["baselines"] = score_baselines(prepared.task, examples["train"], examples[shown])
    if fit.learner.division is not None:
        prepared.chain.merge()  # Parts of a model cannot be merged: the scores are those before, up to rounding.
    write_artefacts(
        folder, engine(shown), prepared.chain, results, worst[shown].sorted(), report=config.report.enabled
    )
    return results


def _kept(prepared: Prepared, fit: Fit, best: Checkpoint | None) -> Kept | None:
    """What the evaluation of the best weights found; None where adapters were merged since, which rounds."""
    if best is None or not isinstance(fit.evaluate, Evaluations) or prepared.chain.has_adapters:
        return None
    return fit.evaluate.of(best.step)


class _Ending:
    """What is done with validation when the best weights are there."""

    def __init__(self, prepared: Prepared, fit: Fit, folder: RunFolder, engine: Engines, *, kept: Kept | None) -> None:
        self._prepared = prepared
        self._fit = fit
        self._folder = folder
        self._engine = engine
        self._kept = kept
        """On the main process."""
        self._world = fit.learner.world
        self._has_kept: bool = self._world.share(kept is not None)

    def validation(self, worst: WorstMistakes, *, tuned: bool) -> dict[str, Any]:
        """The scores of validation, kept or made now; `worst` receives its mistakes."""
        path = self._folder.predictions / "validation.jsonl"
        found: dict[str, Any] = {}
        if tuned or not self._has_kept:
            found = self._score(path)
        elif self._kept is not None:
            found = self._kept.scores
            self._kept.predictions.replace(path)
        if not self._world.is_main:
            return found
        if isinstance(self._fit.evaluate, Evaluations):
            self._fit.evaluate.clear()
        for number, (example, prediction) in enumerate(read_pairs(path, self._prepared) if worst.most else ()):
            worst.add(number, self._prepared.task.mistake(example, prediction))
        return found

    def tune(self) -> Mapping[str, Any] | None:
        """Let the task choose on validation what its settings leave open; its settings, None where none were."""
        task = self._prepared.task
        if not task.needs_tuning:
            return None
        if "validation" not in self._prepared.stores:
            task.config = task.tuned(())
            logger.warning("no validation examples: settings of the task that are 'auto' take their defaults")
            return _chosen(task)
        path = self._kept.predictions if self._kept else self._folder.predictions / "validation.jsonl"
        if not self._has_kept:
            self._score(path)
        if self._world.is_main:
            task.config = task.tuned(read_pairs(path, self._prepared))
        task.config = parse(type(task.config), self._world.share(dump(task.config)), at="task")
        return _chosen(task)

    def _score(self, path: Path) -> dict[str, Any]:
        written = path if self._world.is_main else None
        return scores_to_json(score_and_write(self._engine("validation"), self._prepared, "validation", path=written))


def _chosen(task: Task) -> dict[str, Any]:
    """The settings that validation chose; of several tasks as `<task>.<setting>`."""
    settings = dump(task.config)
    own = {name: settings[name] for name in task.tuned_fields}
    return own | {f"{name}.{key}": value for name, one in task.tasks.items() for key, value in _chosen(one).items()}


def _results(task: Task, fit: Fit, best: Checkpoint | None, scores: Mapping[str, Any]) -> dict[str, Any]:
    step = best.step if best else fit.state.step
    test = scores["test"] and {"before": fit.state.before, "after": scores["test"]}
    return {
        "format": 1,
        "task": task.config.name,
        "main_metric": fit.metric,
        "task_metrics": [] if task.has_own_data else [f"{name}/{one.main_metric}" for name, one in task.tasks.items()],
        "best": {"step": step, "epoch": fit.learner.course.epoch_at(step), "value": fit.state.best_value},
        "steps": fit.state.step,
        "epochs": fit.learner.course.epoch_at(fit.state.step),
        "stopped_early": fit.state.stopped_early,
        "train_time_s": fit.state.train_time_s,
        "test": test,
        "validation": scores["validation"],
    }

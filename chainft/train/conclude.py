"""The end of a training: the best weights, what validation decides, the final scores, and all that a run leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from chainft.config.parse import dump
from chainft.config.run import RunConfig
from chainft.data.example import Split
from chainft.infer.engine import Engine
from chainft.run_folder import RunFolder
from chainft.tasks.base import Task
from chainft.train.baselines import score_baselines
from chainft.train.checkpoint import Checkpoint
from chainft.train.evaluations import Evaluations, Kept, read_pairs
from chainft.train.finish import WorstMistakes, score_and_write, scores_to_json, write_artefacts
from chainft.train.fit import Fit
from chainft.train.prepare import Prepared

logger = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = ("validation", "test")

Engines = Callable[[Split], Engine]
"""Makes what predicts a split with the weights as they are."""


def conclude(config: RunConfig, prepared: Prepared, fit: Fit, *, folder: RunFolder, engine: Engines) -> dict[str, Any]:
    """Take the best weights, score them, write the artefacts; returns what `all_results.json` holds."""
    for table in fit.learner.tables:
        table.dissolve()
    best = fit.checkpoints.best() or fit.checkpoints.latest()
    if best is not None:
        prepared.loaded.model.load_state_dict(best.load("model"))
    prepared.chain.merge()
    shown: Split = "test" if "test" in prepared.stores else "validation"
    worst = {split: WorstMistakes(config.report.max_mistakes if split == shown else 0) for split in SPLITS}
    kept = _kept(prepared, fit, best)
    tuned = _tune(prepared, kept, engine, folder)
    scores: dict[str, Any] = {"validation": None, "test": None}
    if "validation" in prepared.stores:
        again = None if tuned else kept
        scores["validation"] = _validation(
            prepared, fit, again, folder=folder, engine=engine, worst=worst["validation"]
        )
    if "test" in prepared.stores:
        path = folder.predictions / "test.jsonl"
        found = score_and_write(engine("test"), prepared, "test", path=path, worst=worst["test"])
        scores["test"] = scores_to_json(found)
    results = _results(config, fit, best, scores) | {"run": folder.path.name, "tuned": tuned}
    if config.evaluation.baselines and shown in prepared.stores:
        examples = prepared.splits.examples
        results["baselines"] = score_baselines(prepared.task, examples["train"], examples[shown])
    write_artefacts(
        folder, engine(shown), prepared.chain, results, worst[shown].sorted(), report=config.report.enabled
    )
    return results


def _kept(prepared: Prepared, fit: Fit, best: Checkpoint | None) -> Kept | None:
    """What the evaluation of the best weights found; None where adapters were merged since, which rounds."""
    if best is None or not isinstance(fit.evaluate, Evaluations) or prepared.chain.has_adapters:
        return None
    return fit.evaluate.of(best.step)


def _validation(
    prepared: Prepared, fit: Fit, kept: Kept | None, *, folder: RunFolder, engine: Engines, worst: WorstMistakes
) -> dict[str, Any]:
    """The scores of validation, kept or made now; `worst` receives its mistakes."""
    path = folder.predictions / "validation.jsonl"
    if kept is None:
        found = scores_to_json(score_and_write(engine("validation"), prepared, "validation", path=path))
    else:
        found = kept.scores
        kept.predictions.replace(path)
    if isinstance(fit.evaluate, Evaluations):
        fit.evaluate.clear()
    for number, (example, prediction) in enumerate(read_pairs(path, prepared) if worst.most else ()):
        worst.add(number, prepared.task.mistake(example, prediction))
    return found


def _tune(prepared: Prepared, kept: Kept | None, engine: Engines, folder: RunFolder) -> Mapping[str, Any] | None:
    """Let the task choose on validation what its settings leave open; returns its settings, None where none were."""
    task = prepared.task
    if not task.needs_tuning:
        return None
    if "validation" not in prepared.stores:
        task.config = task.tuned(())
        logger.warning("no validation examples: settings of the task that are 'auto' take their defaults")
    else:
        path = kept.predictions if kept else folder.predictions / "validation.jsonl"
        if kept is None:
            score_and_write(engine("validation"), prepared, "validation", path=path)
        task.config = task.tuned(read_pairs(path, prepared))
    return _chosen(task)


def _chosen(task: Task) -> dict[str, Any]:
    """The settings that validation chose; of several tasks as `<task>.<setting>`."""
    settings = dump(task.config)
    own = {name: settings[name] for name in task.tuned_fields}
    return own | {f"{name}.{key}": value for name, one in task.tasks.items() for key, value in _chosen(one).items()}


def _results(config: RunConfig, fit: Fit, best: Checkpoint | None, scores: Mapping[str, Any]) -> dict[str, Any]:
    step = best.step if best else fit.state.step
    test = scores["test"] and {"before": fit.state.before, "after": scores["test"]}
    return {
        "format": 1,
        "task": config.task.name,
        "main_metric": fit.metric,
        "best": {"step": step, "epoch": fit.learner.course.epoch_at(step), "value": fit.state.best_value},
        "steps": fit.state.step,
        "epochs": fit.learner.course.epoch_at(fit.state.step),
        "stopped_early": fit.state.stopped_early,
        "train_time_s": fit.state.train_time_s,
        "test": test,
        "validation": scores["validation"],
    }

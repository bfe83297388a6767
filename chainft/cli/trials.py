"""`sweep=optuna`: optuna chooses the values of each trial by what the earlier ones scored, and stops hopeless ones.

The study lies in the sweep's folder (`optuna.db`, which optuna's own tools read), so that a resumed sweep goes on with
all it knows. The choice of trial n follows from `sweep.seed`, n and the earlier scores alone: a sweep of one run at a
time that was stopped and resumed makes the trials of one that was not.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainft.cli.sweep_jobs import Job, Record, Sweep
from chainft.config.kinds import show
from chainft.config.sweep import Axis, SweepPlan
from chainft.errors import ConfigError, Problem
from chainft.metrics._direction import falls
from chainft.metrics.base import check_metric
from chainft.registry import find
from chainft.run_folder import RunFolder

if TYPE_CHECKING:
    from chainft.config.sweep_config import SweepConfig
    from chainft.tasks.base import Task

STUDY = "sweep"
DATABASE = "optuna.db"
_NEEDED = {"qmc": "scipy", "cmaes": "cmaes"}
"""Packages that a sampler needs besides optuna."""


def objective(plan: SweepPlan) -> dict[str, str]:
    """The metric that is optimised and its direction. Raises ConfigError for an unknown one, or without optuna."""
    _check_installed(plan.config)
    job, config = plan.first, plan.config
    task: Task = find("task", job.task.name, key="task.name")(job.task)
    try:
        check_metric(config.metric, task)
    except ConfigError as error:
        raise ConfigError.of(replace(problem, key="sweep.metric") for problem in error.problems) from error
    chooses = job.evaluation.metric or task.main_metric
    metric = config.metric or chooses
    greater = job.evaluation.greater_is_better if metric == chooses else None
    rises = not falls(metric) if greater is None else greater
    return {"metric": metric, "direction": config.direction or ("maximize" if rises else "minimize")}


def changed(record: Record, sweep: Sweep, *, help: str) -> Iterator[Problem]:
    """What may not differ in a search that is resumed: what is optimised, and over which values."""
    where = str(record.path)
    for key, new in (sweep.search or {}).items():
        if (old := (record.search or {}).get(key)) != new:
            message = f"sweep.{key} was {show(old)} in this sweep and is now {show(new)}"
            yield Problem("changed-on-resume", message, where=where, key=f"sweep.{key}", help=help)
    before = {axis["key"]: axis for axis in record.axes}
    for axis in sweep.plan.axes:
        earlier = before.get(axis.key)
        if earlier is not None and _range(earlier) != (new_range := _range(vars(axis))):
            message = f"the values of {axis.key} were {_range(earlier)} in this sweep and are now {new_range}"
            yield Problem("changed-on-resume", message, where=where, key=axis.key, help=help)


class Trials:
    """The jobs of a search, as optuna asks for them."""

    def __init__(self, sweep: Sweep, record: Record | None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep = sweep
        self._states = optuna.trial.TrialState
        search = sweep.search or {}
        self._metric, self._config = search["metric"], sweep.plan.config
        self._study = _study(sweep.folder / DATABASE, search["direction"], is_new=record is None)
        self._study.pruner = _pruner(self._config.pruner)
        self._trials: dict[int, Any] = {}
        """Number of a running job -> its trial."""
        self._scores: dict[int, _Scores] = {}
        self._left: list[Job] = []
        """Jobs of an earlier sweep that are to run again."""
        for earlier in record.jobs if record else ():
            self._take(sweep.restore(earlier))
        self._give_up_unfinished()
        print(f"sweep of {self._config.num_trials} runs in {sweep.folder}, {self._metric} {search['direction']}d")

    def next(self) -> Job | None:
        """The next job to run again, else a new one; None: there are as many as were asked for."""
        if self._left:
            job = self._left.pop(0)
            self._study.enqueue_trial(self._study.trials[job.trial].params)
        elif len(self._sweep.jobs) < self._config.num_trials:
            job = None
        else:
            return None
        number = len(self._sweep.jobs) if job is None else job.number
        self._study.sampler = _sampler(self._config, number)
        trial = self._study.ask()
        varied = {axis.key: _suggest(trial, axis) for axis in self._sweep.plan.axes}
        job = job or self._sweep.add(varied)
        job.trial, job.value = trial.number, None
        self._trials[job.number] = trial
        self._scores[job.number] = _Scores(RunFolder(Path(job.folder)), self._metric)
        return job

    def is_hopeless(self, job: Job) -> bool:
        """Tell optuna what a running job scored since the last look; whether it would stop it for that."""
        if self._config.pruner == "none":
            return False
        trial = self._trials[job.number]
        for evaluation, value in self._scores[job.number].new():
            job.value = value
            trial.report(value, evaluation)
            if trial.should_prune():
                return True
        return False

    def ended(self, job: Job) -> None:
        """Tell optuna how a job ended; one that was stopped or failed is tried anew when the sweep is resumed."""
        trial = self._trials.pop(job.number)
        value = score(job, self._metric)
        if job.status == "done" and value is not None:
            self._study.tell(trial, value)
            job.value = None
        elif job.status == "pruned":
            self._study.tell(trial, state=self._states.PRUNED)
        else:
            self._study.tell(trial, state=self._states.FAIL)

    def _take(self, job: Job) -> None:
        """Match a job of an earlier sweep with its trial, which may have missed the end of it."""
        trial = self._study.trials[job.trial]
        state, value = trial.state, score(job, self._metric)
        if state == self._states.PRUNED:
            job.status, job.value = "pruned", trial.value
        elif job.status == "kept" and state == self._states.RUNNING and value is not None:
            self._study.tell(job.trial, value)
        elif not job.is_over:
            self._left.append(job)

    def _give_up_unfinished(self) -> None:
        """Close the trials of a killed sweep, so that nothing waits for them: their jobs get new ones."""
        while self._study.get_trials(deepcopy=False, states=(self._states.WAITING,)):
            self._study.ask()
        for trial in self._study.get_trials(deepcopy=False, states=(self._states.RUNNING,)):
            self._study.tell(trial.number, state=self._states.FAIL)


def score(job: Job, metric: str) -> float | None:
    """The validation score of a finished job: that of its best checkpoint."""
    if job.results.get("main_metric") == metric:
        value = (job.results.get("best") or {}).get("value")
    else:
        value = ((job.results.get("validation") or {}).get("values") or {}).get(metric)
    return float(value) if isinstance(value, (int, float)) else None


class _Scores:
    """The validation scores of a running job, read from its `metrics.jsonl` as they come."""

    def __init__(self, folder: RunFolder, metric: str) -> None:
        self._path = folder.metrics
        self._metric = metric
        self._place = (0, 0)
        """File (a run that is resumed writes another) and bytes of it that were read."""
        self._num_seen = 0
        """Evaluations in them."""
        self._num_told = 0

    def new(self) -> Iterator[tuple[int, float]]:
        """Number of the evaluation, from 1, and its score, of those that were not told yet and have a finite one."""
        for value in self._values():
            self._num_seen += 1
            if self._num_seen > self._num_told:
                self._num_told = self._num_seen
                if value is not None and math.isfinite(value):
                    yield self._num_seen, float(value)

    def _values(self) -> Iterator[float | None]:
        for line in self._lines():
            if b'"evaluation"' in line:
                facts = json.loads(line)
                if facts.get("kind") == "evaluation" and facts.get("split") == "validation":
                    yield facts["values"].get(self._metric)

    def _lines(self) -> list[bytes]:
        """The whole lines that were not read yet."""
        try:
            with self._path.open("rb") as stream:
                file = os.fstat(stream.fileno()).st_ino
                if file != self._place[0]:
                    self._place, self._num_seen = (file, 0), 0
                stream.seek(self._place[1])
                read = stream.read()
        except FileNotFoundError:
            return []
        whole = read[: read.rfind(b"\n") + 1]
        self._place = (file, self._place[1] + len(whole))
        return whole.splitlines()


def _check_installed(config: SweepConfig) -> None:
    for package, key, value in (
        ("optuna", "name", "optuna"),
        (_NEEDED.get(config.sampler), "sampler", config.sampler),
    ):
        if package is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"sweep.{key} = {value!r} needs the package {package}, which is not installed",
                slug="not-installed",
                key=f"sweep.{key}",
                help="pip install 'chainft[sweep]', or choose sweep=grid"
                if package == "optuna"
                else f"pip install {package}, or choose sweep.sampler=tpe",
            )


def _study(path: Path, direction: Any, *, is_new: bool) -> Any:
    import optuna

    if not is_new and not path.is_file():
        raise ConfigError(
            f"{str(path)!r} is missing: what this sweep learned is lost",
            slug="no-sweep",
            where=str(path),
            help="start another sweep in another sweep.dir",
        )
    storage = optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
    return optuna.create_study(study_name=STUDY, storage=storage, direction=direction, load_if_exists=not is_new)


def _pruner(name: str) -> Any:
    import optuna

    kinds = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
    }
    return kinds[name]()


def _sampler(config: SweepConfig, number: int) -> Any:
    """The sampler for trial `number`, with a seed of its own: it does not depend on when the process started."""
    import numpy as np
    import optuna

    seed = int(np.random.SeedSequence([config.seed, number]).generate_state(1)[0])
    samplers = optuna.samplers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if config.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        if config.sampler == "qmc":
            # One sequence for all trials; optuna keeps in the study how far it came.
            first = samplers.RandomSampler(seed=seed)
            return samplers.QMCSampler(scramble=True, seed=config.seed, independent_sampler=first)
        if config.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed)
        # Running trials count as bad ones, so that those beside them look elsewhere.
        return samplers.TPESampler(seed=seed, constant_liar=True)


def _suggest(trial: Any, axis: Axis) -> str:
    if not axis.is_interval:
        return str(trial.suggest_categorical(axis.key, list(axis.values)))
    if axis.whole:
        return str(trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log))
    return f"{trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log):.6g}"


def _range(axis: Mapping[str, Any]) -> str:
    """The values of an axis, in words."""
    if axis["values"]:
        return ", ".join(axis["values"])
    kind = "whole numbers" if axis["whole"] else "numbers"
    return f"{kind} from {axis['low']:g} to {axis['high']:g}{' on a log scale' if axis['log'] else ''}"

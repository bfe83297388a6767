"""`sweep=tpe`: optuna chooses the values of each trial by what the earlier ones scored."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from chainft.config.sweep import Axis, SweepPlan
from chainft.errors import ConfigError

if TYPE_CHECKING:
    from chainft.cli.multirun import Job

DEFAULT_TRIALS = 20
DEFAULT_SEED = 42


def run(plan: SweepPlan, do: Callable[[int, dict[str, str]], Job], *, stopped: Callable[[], bool]) -> None:
    """Ask optuna for values, run the job with them, tell it the score. Raises ConfigError without optuna."""
    check_installed()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = DEFAULT_SEED if plan.config.seed is None else plan.config.seed
    study = optuna.create_study(direction=direction(plan), sampler=optuna.samplers.TPESampler(seed=seed))
    for number in range(plan.config.num_trials or DEFAULT_TRIALS):
        trial = study.ask()
        job = do(number, {axis.key: _suggest(trial, axis) for axis in plan.axes})
        value = score(job, plan.config.metric)
        if value is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)
        if stopped():
            return


def check_installed() -> None:
    """Raises ConfigError that says what to install."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "sweep=tpe needs the package optuna, which is not installed",
            slug="not-installed",
            key="sweep.name",
            help="pip install 'chainft[sweep]', or choose sweep=grid",
        )


def direction(plan: SweepPlan) -> Literal["maximize", "minimize"]:
    """Which way the metric gets better."""
    if plan.config.direction:
        return plan.config.direction
    return "minimize" if (plan.config.metric or "").endswith("loss") else "maximize"


def score(job: Job, metric: str | None) -> float | None:
    """The validation score of a finished job; of its best checkpoint unless a metric is named."""
    if metric is None:
        value = (job.results.get("best") or {}).get("value")
    else:
        value = ((job.results.get("validation") or {}).get("values") or {}).get(metric)
    return float(value) if isinstance(value, (int, float)) else None


def _suggest(trial: Any, axis: Axis) -> str:
    if not axis.is_interval:
        return str(trial.suggest_categorical(axis.key, list(axis.values)))
    if axis.whole:
        return str(trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log))
    return f"{trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log):.6g}"

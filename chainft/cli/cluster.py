"""`sweep.engine=submitit`: each run as a job of a Slurm cluster, or of submitit's own executor where there is none.

The folder of the sweep and the Python must be on a disk that all nodes share. A job whose time is over, or that is
preempted, is queued again by submitit, and the run goes on from its last checkpoint.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainft.cli.jobs import redirect
from chainft.config.sweep_config import SweepConfig
from chainft.errors import ConfigError

_LOCAL_MINUTES = 60 * 24 * 365
"""Most minutes of a job of submitit's own executor, which would end it after two: a sweep ends by itself."""


class SubmititEngine:
    """Submits runs. Raises ConfigError without submitit, and for settings that mean nothing where it runs them."""

    def __init__(self, config: SweepConfig, folder: Path) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise ConfigError(
                "sweep.engine = 'submitit' needs the package submitit, which is not installed",
                slug="not-installed",
                key="sweep.engine",
                help="pip install 'chainft[cluster]', or let any scheduler run the commands of --print-jobs",
            )
        import submitit

        self._folder = folder.resolve()
        self._config = config
        self._cluster = submitit.AutoExecutor.which()
        self._check()
        self._executor: Any = None

    def start(self, words: Sequence[str], log: Path, share: str | None) -> ClusterJob:
        """Submit a run; `share` is not used: the cluster gives each job its own devices."""
        if self._executor is None:
            self._executor = self._open()
        return ClusterJob(self._executor.submit(Run(tuple(words), str(log.resolve()), str(Path.cwd()))), self._cluster)

    def _open(self) -> Any:
        import submitit

        print(f"jobs go to submitit's executor '{self._cluster}', whose files are in {self._folder}")
        executor = submitit.AutoExecutor(self._folder, cluster=self._cluster)
        if self._cluster == "slurm":
            options = dict(self._config.slurm)
            # Submitit itself has to know the time, which tells it whether a job ran out of it or was preempted.
            limit = {"slurm_time": options.pop("time")} if isinstance(options["time"], int) else {}
            gpus = self._config.devices_per_job
            executor.update_parameters(gpus_per_node=gpus, slurm_additional_parameters=options, **limit)
        else:
            executor.update_parameters(timeout_min=_LOCAL_MINUTES)
        executor.update_parameters(name="chainft")
        return executor

    def _check(self) -> None:
        here = f"submitit finds no Slurm on this machine and runs jobs by its executor {self._cluster!r}"
        if self._cluster != "slurm" and self._config.slurm:
            raise ConfigError(
                f"sweep.slurm = {dict(self._config.slurm)} has no effect: {here}", slug="no-effect", key="sweep.slurm"
            )
        if self._cluster != "slurm" and self._config.devices_per_job is not None:
            raise ConfigError(
                f"sweep.devices_per_job = {self._config.devices_per_job} has no effect: {here}, which gives all jobs "
                "the same devices",
                slug="no-effect",
                key="sweep.devices_per_job",
                help="choose sweep.engine=local",
            )
        if self._cluster == "slurm" and "time" not in self._config.slurm:
            raise ConfigError(
                "sweep.slurm has no time, so that submitit would end each job after 5 minutes",
                slug="missing-key",
                key="sweep.slurm",
                help="give the minutes that a run may take: sweep.slurm.time=120",
            )


@dataclass(frozen=True)
class Run:
    """What a node does: be `chainft WORDS`; the second time, after its time was over, go on with the run."""

    words: tuple[str, ...]
    log: str
    folder: str
    """Working folder of the sweep."""

    def __call__(self) -> int:
        """The exit code."""
        from chainft.cli.main import main

        # Submitit ignores SIGTERM, by which a run saves and ends.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        redirect(1, self.log)
        redirect(2, self.log)
        os.chdir(self.folder)
        return main(list(self.words))

    def checkpoint(self) -> Any:
        """What submitit queues when it takes the job off its node."""
        import submitit

        return submitit.helpers.DelayedSubmission(Run(_again(self.words), self.log, self.folder))


class ClusterJob:
    """A submitted run."""

    def __init__(self, job: Any, cluster: str) -> None:
        self._job = job
        self._cluster = cluster
        self._is_signalled = False

    def wait(self, timeout: float) -> int | None:
        """The exit code, 1 where the cluster ended the job; None: it waits or runs yet."""
        if not self._job.done():
            time.sleep(timeout)
            return None
        if self._is_signalled and not self._job.paths.result_pickle.exists():
            return 1  # Submitit would look for the result of a job that was ended for 15 s more.
        error = self._job.exception()
        return int(self._job.result()) if error is None else 1

    def send_signal(self, number: int) -> None:
        """Ask the run to save and end. Slurm sends SIGTERM, and kills after its KillWait."""
        if self._job.done():
            return
        self._is_signalled = True
        if self._cluster == "slurm":
            self._job.cancel(check=False)
        else:
            with suppress(ProcessLookupError):
                os.kill(int(self._job.job_id), signal.SIGTERM)


def _again(words: Sequence[str]) -> tuple[str, ...]:
    """The words that go on with a run where it has a checkpoint, else those that started it."""
    run = next(word for word in words if word.startswith("run="))
    folder = Path(run.removeprefix("run=").strip("'").replace("\\'", "'"))
    has_checkpoint = (folder / "checkpoints" / "last").exists()
    return ("train", run, "resume=true") if has_checkpoint else tuple(words)

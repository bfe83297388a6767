"""The jobs of a sweep: their folders, the words that run each, and `sweep.json`, which remembers them.

The record is written whenever a job starts or ends, so that a sweep that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from chainft.cli.sweep_table import write_csv
from chainft.config.sweep import SweepPlan
from chainft.config.sweep_base import Base
from chainft.errors import ConfigError
from chainft.run_folder import STATE_FILE, RunFolder, write_json

Status = Literal["waiting", "running", "done", "kept", "failed", "stopped", "pruned"]
FORMAT = 2
"""Version of `sweep.json`."""


@dataclass
class Job:
    """One run of a sweep."""

    number: int
    varied: dict[str, str]
    folder: str
    status: Status = "waiting"
    exit_code: int | None = None
    time_s: float = 0.0
    error: str | None = None
    value: float | None = None
    """The last validation score of a run that was pruned."""
    trial: int | None = None
    """Number of the trial in optuna's study."""
    results: dict[str, Any] = field(default_factory=dict)
    """`all_results.json` of the run."""

    @property
    def label(self) -> str:
        return f"[{self.number}] {', '.join(f'{key}={value}' for key, value in self.varied.items())}"

    @property
    def log(self) -> Path:
        return Path(f"{self.folder}.log")

    @property
    def is_over(self) -> bool:
        """Whether an earlier sweep left nothing to do."""
        return self.status in ("kept", "pruned")

    def read_results(self) -> None:
        try:
            loaded = json.loads(RunFolder(Path(self.folder)).results.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            loaded = None
        self.results = loaded if isinstance(loaded, dict) else {}


@dataclass(frozen=True)
class Record:
    """What `sweep.json` says of a sweep."""

    path: Path
    name: str
    axes: Sequence[Mapping[str, Any]]
    search: Mapping[str, Any] | None
    base: Base
    jobs: Sequence[Mapping[str, Any]]


@dataclass
class Sweep:
    """A sweep in progress."""

    plan: SweepPlan
    folder: Path
    flags: tuple[str, ...]
    search: Mapping[str, Any] | None = None
    """What a search optimises; None of a grid."""
    jobs: list[Job] = field(default_factory=list)

    def add(self, varied: dict[str, str], *, number: int | None = None) -> Job:
        """A new job; its number is the first that is free."""
        if number is None:
            number = max((job.number for job in self.jobs), default=-1) + 1
        job = Job(number, varied, str(self.folder / _name(number, varied)))
        self.jobs.append(job)
        return job

    def restore(self, record: Mapping[str, Any]) -> Job:
        """A job of an earlier sweep, in the folder that it has now."""
        job = Job(record["number"], dict(record["varied"]), str(self.folder / Path(record["folder"]).name))
        job.trial, job.value, job.time_s = record["trial"], record["value"], record["time_s"]
        job.read_results()
        if record["status"] in ("pruned", "running"):
            job.status = record["status"]
        if job.results and (record["status"] in ("done", "kept") or _ended_unseen(record["status"], job)):
            job.status, job.exit_code = "kept", 0
        self.jobs.append(job)
        return job

    def save(self) -> None:
        """Write `sweep.json` and `sweep.csv`."""
        self.jobs.sort(key=lambda job: job.number)
        facts = {
            "format": FORMAT,
            "name": self.plan.config.name,
            "words": list(self.plan.words),
            "axes": [asdict(axis) for axis in self.plan.axes],
            "search": self.search,
            "base": asdict(self.plan.base),
        }
        jobs = [{key: value for key, value in asdict(job).items() if key != "results"} for job in self.jobs]
        write_json(self.folder / "sweep.json", {**facts, "jobs": jobs})
        write_csv(self.folder / "sweep.csv", self.jobs)

    def command(self, job: Job) -> list[str]:
        """The words after `chainft` that run a job, or go on with it where it has a checkpoint."""
        run = f"run={_quoted(job.folder)}"
        if (Path(job.folder) / "checkpoints" / "last").exists():
            return ["train", run, "resume=true"]
        return ["train", *self.flags, *self.plan.job_words(job.varied), run]


def read_record(folder: Path) -> Record:
    """The record of an earlier sweep. Raises ConfigError where there is none."""
    path = folder / "sweep.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        base = Base(found["base"]["settings"], tuple(found["base"]["varied"]))
        return Record(path, found["name"], found["axes"], found["search"], base, found["jobs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{str(folder)!r} holds no sweep that could be resumed (no readable sweep.json)",
            slug="no-sweep",
            key="sweep.dir",
            help="name the folder that an earlier 'chainft train -m' printed",
        ) from error


def make_way(job: Job) -> None:
    """Set aside the folder of a run that ended before its first checkpoint: it starts anew."""
    folder = Path(job.folder)
    if folder.exists() and not (folder / "checkpoints" / "last").exists():
        folder.rename(free_name(folder))


def free_name(path: Path) -> Path:
    """`path_2`, `path_3`, ...: the first that does not exist."""
    return next(other for n in range(2, 10_000) if not (other := path.with_name(f"{path.name}_{n}")).exists())


def _ended_unseen(status: Status, job: Job) -> bool:
    """Whether a run of which no sweep saw the end has written what comes last: its results and then its model."""
    return status in ("waiting", "running", "stopped") and (RunFolder(Path(job.folder)).model / STATE_FILE).is_file()


def _name(number: int, varied: Mapping[str, str]) -> str:
    """`003_optimizer.lr=1e-4,seed=2`, safe as a folder name."""
    text = ",".join(f"{key}={value}" for key, value in varied.items())
    return f"{number:03d}_{re.sub(r'[^A-Za-z0-9._=,+-]+', '-', text)[:100]}"


def _quoted(text: str) -> str:
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"

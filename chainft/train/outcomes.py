"""How each worker of a run ended, as files that the parent reads, and which of several failures was the first cause.

A process that dies takes the others with it: their exchanges break off, or nobody answers any more. What they report
then is a consequence; told is the cause, once, with its rank.
"""

from __future__ import annotations

import json
import os
import signal
import time
import traceback
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from chainft.config.run import RunConfig
from chainft.errors import ChainftError, DistributedError, Interrupted, Problem
from chainft.run_folder import RunFolder

_BROKEN = (
    "gloo",
    "NCCL",
    "Connection",
    "connection",
    "Broken pipe",
    "TCPStore",
    "DistNetworkError",
    "DistBackendError",
)
"""Words in errors of exchanges whose other side is gone."""
_SPEECHLESS = "died without a word: it was killed, or ended itself at once"
_CRASH = "Fatal Python error: "
"""How faulthandler begins what it writes of a process that a signal ends."""
_NCCL_HINT = " (NCCL does so where another process does not answer within launch.timeout_s: see its log)"
_STOPS = (75, 130)
"""Exit codes of processes that were asked to stop."""
_UNREPEATABLE = (2, 3, 4, 5, 9, 10, *_STOPS)
"""Exit codes of errors that would come again (config, data, model, divergence, checkpoint, security), and of stops."""


@dataclass(frozen=True)
class Outcome:
    """What one worker said when it ended."""

    rank: int
    time: float
    exit_code: int = 0
    problems: tuple[Problem, ...] = ()
    trace: str | None = None
    """Traceback of an error that is none of the user's, or the stacks of a crash."""

    @property
    def reason(self) -> str:
        """What ended a process of which there is a trace."""
        lines = (self.trace or "").splitlines() or [""]
        if not self.has_crashed:
            return f"failed: {lines[-1]}"
        hint = _NCCL_HINT if self.was_aborted_by_nccl else ""
        return f"crashed in native code: {lines[0].removeprefix(_CRASH)}{hint}"

    @property
    def has_crashed(self) -> bool:
        """Whether a fault of native code ended it, so that it could say nothing but where it was."""
        return (self.trace or "").startswith(_CRASH)

    @property
    def was_aborted_by_nccl(self) -> bool:
        """Whether a thread did so of which Python knows nothing, beside a GPU: NCCL's, which waits for other processes."""
        lines = (self.trace or "").splitlines()
        in_python = any(line.startswith("Current thread 0x") for line in lines)
        return self.has_crashed and "Aborted" in lines[0] and not in_python and _uses_nccl()

    @property
    def error(self) -> ChainftError | None:
        """The error as the worker raised it; None where it ended well."""
        if self.exit_code == 0 or not self.problems:
            return None
        kinds = {kind.exit_code: kind for kind in ChainftError.__subclasses__()}
        return kinds.get(self.exit_code, DistributedError).of(self.problems)

    @property
    def is_consequence(self) -> bool:
        """Whether an exchange broke off: another process is to blame."""
        if self.has_crashed:
            return self.was_aborted_by_nccl
        return self.trace is not None and any(word in self.reason for word in _BROKEN)

    @property
    def is_stop(self) -> bool:
        """Whether it was asked to stop."""
        return self.exit_code in _STOPS


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    error: ChainftError
    is_repeatable: bool


def outcome_file(exchange: Path, rank: int) -> Path:
    """Where a worker leaves its outcome."""
    return exchange / f"rank_{rank}.json"


def process_file(exchange: Path, rank: int) -> Path:
    """Where a worker leaves its process id."""
    return exchange / f"rank_{rank}.pid"


def crash_file(exchange: Path, rank: int) -> Path:
    """Where a worker leaves its stacks when it crashes; empty until then."""
    return exchange / f"rank_{rank}.crash"


def hang_file(exchange: Path, rank: int) -> Path:
    """Where a worker leaves its stacks when it hangs while others fail."""
    return exchange / f"rank_{rank}.stacks"


def request_file(exchange: Path) -> Path:
    """Where the parent leaves the number of a signal to stop."""
    return exchange / "signal"


def started_here(exchange: Path) -> dict[int, int]:
    """The workers that began on this machine: rank -> process id."""
    found = {}
    for path in exchange.glob("rank_*.pid"):
        with suppress(ValueError):  # It is just being written.
            found[int(path.stem.removeprefix("rank_"))] = int(path.read_text())
    return found


def write_outcome(exchange: Path, rank: int, error: BaseException | None) -> None:
    """Leave the outcome of this process, whole or not at all."""
    problems = [vars(problem) for problem in error.problems] if isinstance(error, ChainftError) else []
    code = 0 if error is None else error.exit_code if isinstance(error, ChainftError) else 1
    trace = None if error is None or problems else "".join(traceback.format_exception(error)).rstrip()
    record = {"rank": rank, "time": time.time(), "exit_code": code, "problems": problems, "trace": trace}
    temporary = exchange / f".rank_{rank}.{os.getpid()}"
    temporary.write_text(json.dumps(record), encoding="utf-8")
    temporary.rename(outcome_file(exchange, rank))


def read_outcomes(exchange: Path) -> dict[int, Outcome]:
    """The outcomes of the workers that left one, by rank, and of those that crashed."""
    found = {}
    for path in exchange.glob("rank_*.crash"):
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.startswith(_CRASH):
            rank = int(path.stem.removeprefix("rank_"))
            lines = [line for line in text.splitlines() if not line.startswith("Extension modules")]
            trace = "\n".join(lines).rstrip()
            found[rank] = Outcome(rank, path.stat().st_mtime, DistributedError.exit_code, trace=trace)
    for path in exchange.glob("rank_*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        record["problems"] = tuple(Problem(**problem) for problem in record["problems"])
        found[record["rank"]] = Outcome(**record)
    return found


def read_hangs(exchange: Path) -> dict[int, str]:
    """The stacks of the workers that hung, by rank."""
    files = exchange.glob("rank_*.stacks")
    return {int(one.stem.removeprefix("rank_")): one.read_text(encoding="utf-8", errors="replace") for one in files}


def first_cause(
    outcomes: Mapping[int, Outcome],
    config: RunConfig,
    *,
    reported: tuple[int, int],
    here: Collection[int] = (),
    hung: Mapping[int, str] = MappingProxyType({}),
) -> Failure:
    """The failure that all others followed from; `reported`: rank and exit code that the launcher saw first.

    `here`: ranks that began on this machine. What those of other machines said is not known. `hung`: stacks by rank.
    """
    failed = sorted((one for one in outcomes.values() if one.exit_code), key=lambda one: one.time)
    causes = [one for one in failed if not one.is_consequence]
    if causes:
        return _told(causes[0], config)
    size = config.launch.num_processes
    rank, code = reported
    if code == Interrupted.exit_code:
        return Failure(Interrupted("left at once by a second Ctrl-C", slug="stopped"), is_repeatable=False)
    several = config.launch.num_machines > 1
    everyone = {*here, rank} if several else range(size if isinstance(size, int) else 1)
    silent = [one for one in sorted(everyone) if one not in outcomes]
    if rank not in silent and silent:
        rank, code = silent[0], 0
    aborted = [one for one in failed if one.has_crashed]
    if rank not in silent and aborted:
        return _told(aborted[0], config)
    timed_out = any("imed out" in (one.trace or "").splitlines()[-1] for one in failed)
    if rank not in silent:
        elsewhere = "; the cause may be told on another machine" if several else ""
        what = f"lost the others{elsewhere}" if failed and (several or not timed_out) else _ended(code)
    elif timed_out or rank in hung:
        what = f"did not answer within launch.timeout_s = {config.launch.timeout_s:g} s"
    else:
        what = _ended(code)
    return Failure(_died(rank, what, config, stacks=hung.get(rank)), is_repeatable=True)


def _ended(code: int) -> str:
    """By a signal, or nobody knows how."""
    if code >= 0:
        return _SPEECHLESS
    hint = _NCCL_HINT if code == -signal.SIGABRT and _uses_nccl() else ""
    return f"was killed by {signal.Signals(-code).name}{hint}"


def _uses_nccl() -> bool:
    import torch

    return torch.cuda.is_available()


def _told(outcome: Outcome, config: RunConfig) -> Failure:
    """An error of one rank, with the rank in its words."""
    prefix = f"rank {outcome.rank} of {config.launch.num_processes}"
    if outcome.problems:
        # All ranks find what is wrong with the user's settings and data: no rank is worth a word then.
        repeatable = outcome.exit_code not in _UNREPEATABLE
        named = [Problem(**{**vars(one), "message": f"{prefix}: {one.message}"}) for one in outcome.problems]
        kinds = {kind.exit_code: kind for kind in ChainftError.__subclasses__()}
        problems = named if repeatable else outcome.problems
        return Failure(kinds.get(outcome.exit_code, DistributedError).of(problems), is_repeatable=repeatable)
    stacks = outcome.trace if outcome.has_crashed else None
    error = _died(outcome.rank, outcome.reason, config, stacks=stacks)
    error.add_note(str(outcome.trace))
    return Failure(error, is_repeatable=True)


def _died(rank: int, what: str, config: RunConfig, *, stacks: str | None = None) -> DistributedError:
    folder = RunFolder(Path(str(config.run)))
    step = _last_step(folder)
    name = f"rank {rank} of {config.launch.num_processes}"
    told = [f"{name} {what}"]
    if stacks:
        with suppress(OSError):
            folder.stacks.write_text(f"{name}\n\n{stacks}\n", encoding="utf-8")
            told.append(f"where it stood is in {folder.stacks.name}")
    if step:
        told.append(f"the last whole step is {step}")
    return DistributedError(
        "; ".join(told),
        slug="rank-failed",
        where=str(folder.path),
        key="launch",
        help=f"go on with: chainft train run={folder.path} resume=true"
        if (folder.checkpoints / "last").exists()
        else "nothing was saved yet: start the run again",
    )


def _last_step(folder: RunFolder) -> int | None:
    """The step of the last whole line of `metrics.jsonl`."""
    if not folder.metrics.is_file():
        return None
    for line in reversed(folder.metrics.read_text(encoding="utf-8").splitlines()):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return None

"""Faults on purpose, so that tests can kill, starve or poison a run at an exact moment.

`CHAINFT_FAULT="kill@step=7,phase=save.optimizer"` makes the process end itself by SIGKILL when it passes the fault
point `save.optimizer` of step 7. Several faults are separated by `;`. Without `CHAINFT_TESTING=1` nothing happens.

Actions: kill, term, int, abort (signals to this process) · exit (at once, with code 0) · oom, raise, enospc, edquot, erofs,
eacces, eio (exceptions) · nan (the fault point returns True: the caller poisons its loss) · sleep (`seconds=`).
Conditions, all of which must hold: step · phase (`save` also means `save.model`, ...) · rank · count (only the n-th time
that the other conditions hold; without it, every time) · once (a file: only where it does not exist yet).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from chainft.errors import ConfigError, did_you_mean

_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT, "abort": signal.SIGABRT}
_ERRNOS = {name: getattr(errno, name.upper()) for name in ("enospc", "edquot", "erofs", "eacces", "eio")}
_ACTIONS = (*_SIGNALS, *_ERRNOS, "exit", "oom", "nan", "raise", "sleep")


class InjectedError(RuntimeError):
    """The exception of the action `raise`: no part of chainft may expect it."""


@dataclass
class Fault:
    """One fault: what happens and when. Counts how often its conditions held."""

    action: str
    phase: str | None = None
    step: int | None = None
    rank: int | None = None
    count: int | None = None
    seconds: float = 1.0
    once: str | None = None
    """A file that remembers, for later processes too, that it happened."""
    num_met: int = 0

    def is_due(self, phase: str, step: int | None, rank: int) -> bool:
        """Whether it must happen now."""
        if self.phase is not None and phase != self.phase and not phase.startswith(f"{self.phase}."):
            return False
        if (self.step is not None and self.step != step) or (self.rank is not None and self.rank != rank):
            return False
        self.num_met += 1
        if self.count is not None and self.num_met != self.count:
            return False
        if self.once is not None:
            try:
                Path(self.once).touch(exist_ok=False)
            except FileExistsError:
                return False
        return True


_active: tuple[str, tuple[Fault, ...]] = ("", ())


def fault_point(name: str, *, step: int | None = None) -> bool:
    """A moment at which a test may let something fail; `step` counts from 1. True: the caller makes its loss NaN."""
    if os.environ.get("CHAINFT_TESTING") != "1":
        return False
    return _inject(os.environ.get("CHAINFT_FAULT", ""), name, step)


def parse_faults(text: str) -> tuple[Fault, ...]:
    """The faults of a specification. Raises ConfigError for what it does not understand.

    >>> parse_faults("kill@step=7,phase=save.optimizer")[0].phase
    'save.optimizer'
    """
    return tuple(_parse_fault(part.strip()) for part in text.split(";") if part.strip())


def _inject(text: str, name: str, step: int | None) -> bool:
    global _active
    if _active[0] != text:
        _active = (text, parse_faults(text))
    rank = int(os.environ.get("RANK", "0"))
    poisoned = False
    for fault in _active[1]:
        if fault.is_due(name, step, rank):
            poisoned = _act(fault, name) or poisoned
    return poisoned


def _act(fault: Fault, name: str) -> bool:
    if fault.action in _SIGNALS:
        os.kill(os.getpid(), _SIGNALS[fault.action])
    elif fault.action in _ERRNOS:
        number = _ERRNOS[fault.action]
        raise OSError(number, os.strerror(number))
    elif fault.action == "exit":
        os._exit(0)
    elif fault.action == "oom":
        import torch

        raise torch.OutOfMemoryError(f"injected at {name}")
    elif fault.action == "raise":
        raise InjectedError(f"injected at {name}")
    elif fault.action == "sleep":
        time.sleep(fault.seconds)
    return fault.action == "nan"


def _parse_fault(text: str) -> Fault:
    action, _, conditions = text.partition("@")
    if action not in _ACTIONS:
        raise _error(text, f"there is no action {action!r}", did_you_mean(action, _ACTIONS) or ", ".join(_ACTIONS))
    fault = Fault(action)
    for condition in filter(None, conditions.split(",")):
        _set_condition(fault, condition.strip(), text)
    return fault


def _set_condition(fault: Fault, condition: str, text: str) -> None:
    name, equals, value = condition.partition("=")
    names = ("step", "phase", "rank", "count", "seconds", "once")
    if not equals or name not in names:
        raise _error(text, f"there is no condition {condition!r}", did_you_mean(name, names) or ", ".join(names))
    try:
        converted = value if name in ("phase", "once") else float(value) if name == "seconds" else int(value)
    except ValueError as error:
        raise _error(text, f"{name}={value!r} is not a number", None) from error
    if value == "" or (name in ("count", "step") and int(value) < 1):
        raise _error(text, f"{name}={value!r} is empty or less than 1", None)
    setattr(fault, name, converted)


def _error(text: str, message: str, help: str | None) -> ConfigError:
    return ConfigError(f"{message} in {text!r}", slug="fault", key="CHAINFT_FAULT", help=help)

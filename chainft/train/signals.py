"""Requests to stop: SIGTERM, SIGUSR1 and Ctrl-C set a flag that training and every long phase look at.

The training loop looks at `signal` after each step, saves and calls `check()`; phases that have nothing to save
(tokenisation, evaluation) call `check()` alone. A second Ctrl-C leaves at once: nothing committed can be lost by that.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import threading
from pathlib import Path
from signal import SIG_DFL, SIGINT, SIGTERM, SIGUSR1, Signals
from signal import signal as set_handler
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from chainft.errors import Interrupted, Stopped

if TYPE_CHECKING:
    from chainft.world import World

HANDLED = (SIGTERM, SIGUSR1, SIGINT)
STOPPING = "stopping as soon as everything is saved; press Ctrl-C again to leave at once"
LAUNCHED = "CHAINFT_LAUNCHED"
"""Variable of processes whose parent speaks for them."""


class StopRequest:
    """While the context is open, a signal to stop sets `signal` instead of ending the process.

    Contexts may be nested: the outermost one holds the flag. Outside the main thread, where Python lets no one handle
    signals, only `request` sets it.
    """

    _active: ClassVar[StopRequest | None] = None

    def __init__(self, run: Path | None = None) -> None:
        self.run = run
        self._world: World | None = None
        self._agreed: Signals | None = None
        self._signal: Signals | None = None
        self.has_agreed = False
        """Whether all processes know of the request, and save and leave together."""
        self._outer: StopRequest | None = None
        self._previous: dict[Signals, Any] = {}

    def together(self, world: World) -> None:
        """From here on stop only when all processes have agreed on it (`agree`): else some would wait for others."""
        self._world = None if world.is_alone else world

    def agree(self) -> None:
        """Ask all processes whether one was asked to stop; each must call this at the same points."""
        if self._world is not None:
            received = self._received
            number = int(self._world.most(0 if received is None else int(received)))
            self._agreed = Signals(number) if number else None
            (self._outer or self).has_agreed = self._agreed is not None

    @property
    def signal(self) -> Signals | None:
        """The first signal that asked to stop, or None; of several processes, what they agreed on last."""
        return self._received if self._world is None else self._agreed

    @property
    def _received(self) -> Signals | None:
        return self._outer._received if self._outer else self._signal

    def request(self, number: Signals) -> None:
        """Ask to stop as that signal would, for example because another process received it."""
        if self._outer:
            self._outer.request(number)
        elif self._signal is None:
            self._signal = number

    def check(self) -> None:
        """Raise Stopped (SIGTERM, SIGUSR1) or Interrupted (Ctrl-C) if that was asked for."""
        if self.signal is not None:
            raise self.error()

    def error(self) -> Stopped | Interrupted:
        """What `check` raises: says how to go on."""
        kind = Interrupted if self.signal is SIGINT else Stopped
        name = "Ctrl-C" if self.signal is SIGINT else self.signal.name if self.signal else "request"
        return kind(
            f"stopped by {name}; nothing that was saved is lost",
            slug="stopped",
            where=str(self.run) if self.run else None,
            help=f"go on with: {resume_command(self.run)}" if self.run else None,
        )

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        if StopRequest._active is not None:
            self._outer = StopRequest._active
            return self
        StopRequest._active = self
        for number in HANDLED:
            self._previous[number] = set_handler(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            set_handler(number, handler if handler is not None else SIG_DFL)
        self._previous.clear()
        if StopRequest._active is self:
            StopRequest._active = None

    def _receive(self, number: int, frame: FrameType | None) -> None:
        """The handler: keeps to what is safe at any moment, so no logging and no exception."""
        again = self._signal is not None
        if number == SIGINT and again:
            say("leaving at once" + (f"; go on with: {resume_command(self.run)}" if self.run else ""))
            os._exit(Interrupted.exit_code)
        if not again:
            self._signal = Signals(number)
            say(STOPPING)


def resume_command(run: Path) -> str:
    """The command that goes on with a run, quoted for the shell and for Hydra.

    >>> resume_command(Path("runs/a b"))
    'chainft train "run=\\'runs/a b\\'" resume=true'
    """
    text = str(run)
    if re.fullmatch(r"[\w./-]+", text, re.ASCII):
        return f"chainft train run={text} resume=true"
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    word = f"run='{escaped}'"
    quoted = f'"{word}"' if not set(word) & set('"$`\\!') else shlex.quote(word)
    return f"chainft train {quoted} resume=true"


def say(message: str) -> None:
    """Write a line to standard error, past all buffers; shows the cursor again that a progress bar may have hidden.

    Of several processes the first one does, or the parent that started them (`LAUNCHED`).
    """
    if os.environ.get("RANK", "0") != "0" or LAUNCHED in os.environ:
        return
    shown = "\033[?25h" if sys.__stderr__ is not None and sys.__stderr__.isatty() else ""
    try:
        os.write(2, f"{shown}\n{message}\n".encode())
    except OSError:
        return  # Nobody reads standard error any more; stopping matters, the message does not.

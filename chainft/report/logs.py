"""Where log records go: warnings of chainft to the terminal, everything worth keeping to `log.txt`."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from chainft.errors import StorageError
from chainft.report.console import messages
from chainft.report.words import printable

_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def setup_logging(log_file: Path | None, quiet: bool = False, *, console: Console | None = None) -> None:
    """Configure logging of this process; a second call replaces the first.

    Terminal: warnings and errors of chainft, errors of other packages; with `quiet`, errors only. A record
    logged with `extra={"file_only": True}` stays off the terminal (it is printed elsewhere).
    `log_file`: from INFO (DEBUG with `CHAINFT_DEBUG`) of chainft, from WARNING of others, Python's warnings too.
    Raises StorageError where the file can't be opened.
    """
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _TerminalHandler | _FileHandler)]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(_TerminalHandler(console or messages(), quiet=quiet))
    if log_file is not None:
        root.addHandler(_open(log_file, console or messages()))
    logging.getLogger("chainft").setLevel(logging.DEBUG if os.environ.get("CHAINFT_DEBUG") else logging.INFO)
    logging.captureWarnings(True)
    _quieten_libraries()


class _TerminalHandler(logging.Handler):
    """Prints through the console of the progress display, which keeps the two apart."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        super().__init__()
        self._console = console
        self._quiet = quiet

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.name.split(".")[0] == "chainft"
        least = logging.WARNING if ours and not self._quiet else logging.ERROR
        return record.levelno >= least and not getattr(record, "file_only", False)

    def emit(self, record: logging.LogRecord) -> None:
        style = "bold red" if record.levelno >= logging.ERROR else "yellow"
        text = "\n".join(printable(line) for line in record.getMessage().splitlines())
        line = Text(f"{record.levelname.lower()}: ", style=style)
        self._console.print(line.append(text, style="default not bold"), soft_wrap=True)


class _FileHandler(logging.FileHandler):
    """Appends to `log.txt`; a full disk is told once and doesn't hide the error that the run itself will raise."""

    def __init__(self, path: Path, console: Console) -> None:
        super().__init__(path, mode="a", encoding="utf-8", errors="backslashreplace")
        self._console = console
        self._failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            self._console.print(Text(f"warning: cannot write {self.baseFilename}: {error.strerror}"), soft_wrap=True)


class _PlainFormatter(logging.Formatter):
    """Without escape codes: libraries colour some of their messages, and data may hold anything."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(_COLOUR.sub("", super().format(record)), keep="\n\t")


def _open(path: Path, console: Console) -> logging.Handler:
    try:
        handler = _FileHandler(path, console)
    except OSError as error:
        raise StorageError(
            f"cannot write {str(path)!r}: {error.strerror}", slug="write-failed", help="free disk space or permissions"
        ) from error
    handler.setFormatter(_PlainFormatter(_FORMAT))
    return handler


def _quieten_libraries() -> None:
    """No progress bars and advice of libraries on the terminal; their warnings reach `log.txt`."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "warning")
    for name in ("httpx", "filelock", "urllib3", "fsspec", "matplotlib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if "transformers" in sys.modules:
        library = importlib.import_module("transformers.utils.logging")
        library.disable_progress_bar()
        library.disable_default_handler()
        library.enable_propagation()
    if "datasets" in sys.modules:
        importlib.import_module("datasets").disable_progress_bars()

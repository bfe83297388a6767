"""Runs code that a model wrote against its tests, in a process that is cut off as far as the system allows.

What is guaranteed on Linux, whatever the code does with Python alone:

- an interpreter of its own with the standard library only (like `python -I -S`), an environment of five variables, no
  standard input, an empty folder as working, home and temporary folder, which is deleted afterwards;
- hard limits of processor time, memory, file size, open files and no core dump; a limit of wall time, after which the
  whole process group is killed; output goes to a file that cannot outgrow the limit of file size;
- a test run counts as passed only where the harness itself reported so with a token of that run after all tests.

By an audit hook (PEP 578), which cannot be taken away, but which code that sets out to could get around: no sockets,
no processes, no signals, no ctypes; files are written in the work folder only, and read there and in the folders of
Python itself. The kernel guarantees more where it can, and `guarantees` says which: network, process and user
namespaces (`unshare`): no network but an empty one, no other process can be seen or signalled, all that was started
ends with the run; Landlock (Linux 5.13): no file outside is opened, whatever the way.

Not guaranteed: that an answer written to deceive cannot pass. It runs in one interpreter with its tests, as in
HumanEval, so it may return objects that equal everything, or search the harness's frames for the token. Without
namespaces and Landlock only the audit hook stands between such code and the user's files: run it in a container.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

Outcome = Literal["passed", "failed", "error", "timeout", "memory"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
FILE_BYTES = 1 << 20
"""Most bytes of a file that is written, output included."""
SHOWN_BYTES = 2000
"""The end of the output that is kept."""
START_S = 10.0
"""Wall time that a start of the interpreter may take on a busy machine, beside that of the program."""
_POLL_S = 0.005
_INSIDE = Path(__file__).with_name("_inside_sandbox.py")
_ISOLATED = ("-P", "-s", "-S", "-B", "-u")
"""Like -I -S, but PYTHONHASHSEED counts, so that orders of sets, and thus outcomes, are the same each time."""
_NAMESPACES = ("--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child")


@dataclass(frozen=True)
class Program:
    """Code, and the tests it must stand."""

    code: str
    tests: tuple[str, ...]
    """Python statements, run one after the other in one namespace that has the names of the code."""
    entry_point: str | None = None
    """Where the tests define `check(candidate)`: the function that it is called with."""
    may_hide: frozenset[str] = frozenset()
    """Names of builtins that the code may define for the tests too (`sum`); others stay as they are in the tests."""


@dataclass(frozen=True)
class Result:
    """What became of a program."""

    outcome: Outcome
    """passed: all tests ran · failed: an assertion of the tests did not hold · error: anything else was raised, or
    the program ended by itself · timeout: wall or processor time · memory: MemoryError."""
    message: str = ""
    """What was raised, or how it ended."""
    output: str = ""
    """The end of what was printed."""


@dataclass(frozen=True)
class _End:
    """How a process ended."""

    code: int
    timed_out: bool
    cpu_s: float
    """Processor time of it and of what it waited for."""


@dataclass(frozen=True)
class Sandbox:
    """Limits of each run."""

    timeout_s: float = 5.0
    """Wall time of a program; its processor time is limited to the next whole second."""
    memory_bytes: int = 512 << 20
    """Address space, that of the interpreter (about 20 MB) included."""

    def run_all(self, programs: Sequence[Program]) -> list[Result]:
        """The results in order; each distinct program runs once, as many at a time as there are processors."""
        distinct = list(dict.fromkeys(programs))
        with ThreadPoolExecutor(max(1, min(len(distinct), os.cpu_count() or 1))) as pool:
            found = dict(zip(distinct, pool.map(self.run, distinct), strict=True))
        return [found[one] for one in programs]

    def run(self, program: Program) -> Result:
        """Run one program to its end, or end it."""
        token = secrets.token_hex(16)
        with tempfile.TemporaryDirectory(prefix="chainft-") as outer, tempfile.TemporaryFile() as output:
            folder = Path(outer).resolve() / "work"
            folder.mkdir()
            readable, report = os.pipe()
            try:
                job = json.dumps(self._job(program, folder, report, token)).encode()
                ended = self._process(job, folder, (readable, report), output.fileno())
                os.set_blocking(readable, False)
                said = _read(readable)
            finally:
                os.close(readable)
                os.close(report)
            return self._result(said, token, ended, _end_of(output.fileno()))

    def _job(self, program: Program, folder: Path, report: int, token: str) -> dict[str, object]:
        return {
            "code": program.code,
            "tests": program.tests,
            "entry_point": program.entry_point,
            "may_hide": sorted(program.may_hide),
            "token": token,
            "report": report,
            "folder": str(folder),
            "readable": _python_folders(),
            "cpu_s": self._cpu_s,
            "memory_bytes": self.memory_bytes,
            "file_bytes": FILE_BYTES,
        }

    @property
    def _cpu_s(self) -> int:
        return int(self.timeout_s) + 1

    def _process(self, job: bytes, folder: Path, report: tuple[int, int], output: int) -> _End:
        """Run the harness; wall time counts from when it says that it has started."""
        readable, writable = report
        process = subprocess.Popen(
            [*_walls(), sys.executable, *_ISOLATED, str(_INSIDE)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=_environment(folder),
            pass_fds=(writable,),
            start_new_session=True,
        )
        process.stdin, stdin = None, process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError), stdin:
            stdin.write(job)
        started, _, _ = select.select([readable], [], [], START_S)
        timed_out = not _has_ended(process.pid, self.timeout_s if started else 0.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # What is left of the group, though the first may have ended.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return _End(process.returncode, timed_out, usage.ru_utime + usage.ru_stime)

    def _result(self, said: bytes, token: str, ended: _End, output: str) -> Result:
        """Of what the harness reported; without its report, of how the process ended."""
        report = _parsed(said)
        if report.get("token") == token and report.get("outcome") in OUTCOMES:
            outcome: Any = report["outcome"]
            return Result(outcome, str(report["message"]), output)
        if ended.timed_out:
            return Result("timeout", f"it ran longer than {self.timeout_s:g} s", output)
        if ended.cpu_s >= self._cpu_s - 0.2:
            return Result("timeout", f"it took {self._cpu_s} s of processor time", output)
        return Result("error", f"the program ended by itself with exit code {ended.code}", output)


def guarantees() -> tuple[str, ...]:
    """What the kernel of this machine adds: `namespaces`, `landlock`."""
    found = ["namespaces"] if _walls() else []
    return (*found, *(["landlock"] if _has_landlock() else []))


@cache
def _has_landlock() -> bool:
    import ctypes

    if sys.platform != "linux":
        return False
    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))) >= 1


@cache
def _walls() -> tuple[str, ...]:
    """The command that makes namespaces, where it works."""
    tool = shutil.which("unshare")
    if tool is None:
        return ()
    command = (tool, *_NAMESPACES, "--")
    done = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if done.returncode == 0 else ()


@cache
def _python_folders() -> tuple[str, ...]:
    """What the interpreter reads: its own folders and libraries, none of which need be the user's."""
    named = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(sys.executable).resolve().parent)}
    system = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/lib", "/lib64", "/etc/ld.so.cache")
    return tuple(sorted({*named, *(one for one in system if Path(one).exists())} - {"/", "/usr/bin", "/bin"}))


def _environment(folder: Path) -> dict[str, str]:
    home = str(folder)
    return {"PATH": "/usr/bin:/bin", "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}


def _has_ended(pid: int, seconds: float) -> bool:
    """Whether a child ends in that time; it is not reaped, so that its number stays its own."""
    last = time.monotonic() + seconds
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() >= last:
            return False
        time.sleep(_POLL_S)
    return True


def _read(source: int) -> bytes:
    try:
        return os.read(source, 1 << 16)
    except BlockingIOError:
        return b""


def _end_of(output: int) -> str:
    size = os.fstat(output).st_size
    return os.pread(output, SHOWN_BYTES, max(0, size - SHOWN_BYTES)).decode("utf-8", "replace")


def _parsed(said: bytes) -> dict[str, str]:
    """The last line that is an object: an answer may have written before it."""
    for line in reversed(said.splitlines()):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            return found
    return {}

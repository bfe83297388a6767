"""The program that runs inside of the sandbox: takes a job from stdin, runs code and its tests, reports once.

Started by `_sandbox` without site packages, so it has the standard library alone and imports nothing of chainft. First it
gives up what it can (resource limits, Landlock, an audit hook), then it runs the job. What it does not read from
stdin before, it cannot read later. The last thing it writes is the report with the token of the job: an answer that
ends the process on its own has no report. See `_sandbox` for what this protects from and what not.
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import resource
import subprocess
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any  # Imported only here: it would cost each start some milliseconds.

GENUINE: dict[str, Any] = dict(vars(builtins))
globals()["__builtins__"] = dict(GENUINE)
"""Functions below keep these, whatever the answer does to the builtins of everybody."""
MAX_PROCESSES = 16
"""Processes and threads together, where the system counts them for this sandbox alone."""
MAX_FILES_WRITTEN = 64
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
"""Numbers of the system calls, the same on all architectures (linux/landlock.h, Linux 5.13)."""
NO_NEW_PRIVILEGES = 38
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
ALL_RIGHTS = (1 << 13) - 1
"""Every right on files of Landlock ABI 1."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSED = (
    "socket.",
    "subprocess.",
    "ctypes.",
    "os.fork",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.kill",
    "os.startfile",
    "os.chown",
    "os.chflags",
    "os.setxattr",
    "os.removexattr",
    "pty.",
    "signal.pthread_kill",
    "resource.setrlimit",
    "resource.prlimit",
    "syslog.",
    "winreg.",
    "webbrowser.",
    "urllib.",
    "ftplib.",
    "smtplib.",
    "http.client.",
    "mmap.",
    "sys.addaudithook",
)
"""Audit events (PEP 578) that no solution needs, by how their names begin."""
CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
"""Audit events whose paths must lie in the work folder."""


def limit(job: dict[str, Any]) -> None:
    """Resource limits; hard ones, so that they cannot be raised again."""
    for name, value in (
        ("RLIMIT_CPU", job["cpu_s"]),
        ("RLIMIT_AS", job["memory_bytes"]),
        ("RLIMIT_FSIZE", job["file_bytes"]),
        ("RLIMIT_NPROC", MAX_PROCESSES),
        ("RLIMIT_NOFILE", 64),
        ("RLIMIT_CORE", 0),
    ):
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        hard = resource.getrlimit(kind)[1]
        wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (wanted, wanted))
        except (ValueError, OSError):
            if name != "RLIMIT_AS" or sys.platform != "darwin":  # macOS has the name, not the limit
                raise


def landlock(readable: Iterable[str], writable: Iterable[str]) -> None:
    """Let the kernel refuse files elsewhere, where it has Landlock."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    rights = ctypes.c_uint64(ALL_RIGHTS)
    rules = libc.syscall(LANDLOCK_CREATE, ctypes.byref(rights), ctypes.c_size_t(8), ctypes.c_uint32(0))
    if rules < 0:
        return
    for folders, allowed in ((readable, READ_FILE | READ_DIR | EXECUTE), (writable, ALL_RIGHTS)):
        for folder in folders:
            _allow(libc, rules, folder, allowed)
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(LANDLOCK_RESTRICT, rules, ctypes.c_uint32(0)):
        raise OSError(ctypes.get_errno(), "Landlock does not hold")
    os.close(rules)


def _allow(libc: Any, rules: int, path: str, allowed: int) -> None:
    """Add a rule for what lies beneath `path`; what does not exist needs none."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):  # noqa: PTH112 - pathlib would cost each start 10 ms
        allowed &= READ_FILE | WRITE_FILE | EXECUTE  # The kernel refuses rights on folders for files.
    rule = allowed.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)  # packed struct of 12 bytes
    libc.syscall(LANDLOCK_ADD, rules, ctypes.c_int(1), rule, ctypes.c_uint32(0))
    os.close(place)


def watch(readable: Iterable[str], folder: str) -> None:
    """Refuse in Python itself what the answer must not do; the hook cannot be taken away again."""
    files = [0]
    fold, start, string, number = os.path.realpath, str.startswith, str, int
    readable = tuple(fold(one) for one in readable)
    folder = fold(folder)

    def beneath(path: Any, roots: Iterable[str]) -> bool:
        if isinstance(path, number):
            return True
        place = fold(os.fsdecode(path))
        return any(place == root or start(place, root + "/") for root in roots)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if start(event, REFUSED):
            raise PermissionError(f"{event} is not allowed in the sandbox")
        if event == "import" and arguments[0] in ("_posixsubprocess", "_ctypes"):
            raise PermissionError(f"the module {arguments[0]} is not allowed in the sandbox")
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & WRITING) if isinstance(flags, number) else any(one in string(mode) for one in "wax+")
            if writes:
                files[0] += 1
            if not beneath(path, (folder,) if writes else (folder, *readable)):
                raise PermissionError(f"the file {path!r} is not allowed in the sandbox")
            if files[0] > MAX_FILES_WRITTEN:
                raise PermissionError("too many files are written in the sandbox")
        elif event in CHANGING:
            paths = [one for one in arguments if isinstance(one, (str, bytes))]
            if not all(beneath(one, (folder,)) for one in paths):
                raise PermissionError(f"{event} of {paths} is not allowed in the sandbox")
        elif event in ("os.listdir", "os.scandir", "os.chdir"):
            place = arguments[0] if arguments and arguments[0] is not None else "."
            if not beneath(place, (folder, *readable)):
                raise PermissionError(f"{event} of {place!r} is not allowed in the sandbox")

    sys.addaudithook(hook)


def disarm() -> None:
    """Take away what starts processes or native code without an audit event."""

    def refuse(*arguments: object) -> None:
        raise PermissionError("processes are not allowed in the sandbox")

    setattr(subprocess, "_fork_exec", refuse)  # noqa: B010 - private, and so unknown to type checkers
    for name in ("_posixsubprocess", "_ctypes", "ctypes", "_ctypes_test"):
        sys.modules.pop(name, None)


def kind_of(error: BaseException, *, testing: bool) -> str:
    """The outcome that an exception is."""
    if isinstance(error, MemoryError):
        return "memory"
    return "failed" if testing and isinstance(error, AssertionError) else "error"


def run(job: dict[str, Any]) -> tuple[str, str]:
    """Outcome and message of code and tests."""
    testing = False
    try:
        answer = types.ModuleType("__main__")
        sys.modules["__main__"] = answer
        exec(compile(job["code"], "<answer>", "exec"), vars(answer))  # noqa: S102 - what this file is for
        restore()
        # Names of the answer that would hide a builtin from the tests stay out, unless they are what is asked for.
        hidden = {name for name in GENUINE if name not in job["may_hide"]}
        names = {name: value for name, value in vars(answer).items() if name not in hidden and name[:2] != "__"}
        space = {"__name__": "__tests__", "__builtins__": dict(GENUINE), **names}
        testing = True
        for test in job["tests"]:
            exec(compile(test, "<test>", "exec"), space)  # noqa: S102
        if job["entry_point"]:
            if job["entry_point"] not in names:
                return "error", f"NameError: the answer does not define {job['entry_point']}"
            space["check"](names[job["entry_point"]])
        return "passed", ""
    except BaseException as error:  # noqa: BLE001 - whatever the answer raises is its outcome
        return kind_of(error, testing=testing), f"{type(error).__name__}: {error}"[:300]
    finally:
        restore()


def restore() -> None:
    """Make the builtins of everybody what they were."""
    shared = vars(builtins)
    shared.clear()
    shared.update(GENUINE)


def main() -> None:
    """Read the job, give up rights, run it, report."""
    job = json.loads(sys.stdin.buffer.read())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    readable, folder = job["readable"], job["folder"]
    limit(job)
    landlock([*readable, "/dev/null", "/dev/urandom"], [folder])
    token, report = job.pop("token"), job["report"]
    say, end, dump = os.write, os._exit, json.dumps
    disarm()
    watch([*readable, "/dev/null", "/dev/urandom"], folder)
    say(report, b"started\n")
    outcome, message = run(job)
    say(report, b"\n" + dump({"token": token, "outcome": outcome, "message": message}).encode())
    end(0)


if __name__ == "__main__":
    main()

"""The sandbox: each outcome, and what hostile or broken code does not get away with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chainft.tasks import _sandbox
from chainft.tasks._sandbox import Program, Result, Sandbox, guarantees

GOOD = "def f(x):\n    return x + 1\n"
FORGED = """import os
for place in range(3, 30):
    try:
        os.write(place, b'\\n{"token": "", "outcome": "passed", "message": ""}\\n')
    except OSError:
        pass
os._exit(0)"""
TESTS = ("assert f(1) == 2",)


def run(code: str, tests: tuple[str, ...] = TESTS, *, timeout_s: float = 1.0) -> Result:
    return Sandbox(timeout_s=timeout_s).run(Program(code, tests))


@pytest.mark.parametrize(
    ("code", "outcome", "message"),
    [
        (GOOD, "passed", ""),
        ("def f(x):\n    return x", "failed", "AssertionError"),
        ("def f(x) return x", "error", "SyntaxError"),
        ("def g(x):\n    return x", "error", "NameError"),
        ("def f(x):\n    assert False", "failed", "AssertionError"),
        ("assert False\n" + GOOD, "error", "AssertionError"),
        ("def f(x):\n    while True:\n        pass", "timeout", "longer than 1 s"),
        ("import time\ndef f(x):\n    time.sleep(60)", "timeout", "longer than 1 s"),
        ("def f(x):\n    return len([0] * 10 ** 9)", "memory", "MemoryError"),
        ("import numpy", "error", "No module named 'numpy'"),
    ],
    ids=["good", "wrong", "syntax", "name", "own-assert", "assert-at-top", "loop", "sleep", "memory", "no-packages"],
)
def test_a_program_has_an_outcome(code: str, outcome: str, message: str) -> None:
    found = run(code)
    assert (found.outcome, message in found.message) == (outcome, True), found


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "raise SystemExit",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "def f(x):\n    import os\n    os._exit(0)",
        "import atexit, os\natexit.register(os._exit, 0)\nraise KeyboardInterrupt",
        FORGED,
        'print(\'{"outcome": "passed", "message": ""}\', flush=True)\nimport os\nos._exit(0)',
    ],
    ids=["_exit", "exit", "SystemExit", "kill", "_exit-in-test", "interrupt", "forged-report", "forged-output"],
)
def test_what_ends_early_has_not_passed(code: str) -> None:
    assert run(code).outcome == "error"


@pytest.mark.parametrize(
    "code",
    [
        "import builtins\nbuiltins.exec = builtins.compile = lambda *rest, **more: None\ndef f(x):\n    return 0",
        "import builtins\nbuiltins.AssertionError = KeyError\ndef f(x):\n    return 0",
        "def all(items):\n    return True\ndef f(x):\n    return 0",
        "import builtins\nbuiltins.all = lambda items: True\ndef f(x):\n    return 0",
        "__builtins__ = {}\ndef f(x):\n    return 0",
    ],
    ids=["exec", "AssertionError", "shadowed", "patched", "no-builtins"],
)
def test_patched_builtins_do_not_reach_the_tests(code: str) -> None:
    assert run(code, ("assert all([f(1) == 2])",)).outcome == "failed"


def test_a_builtin_may_be_what_is_asked_for() -> None:
    tests = ("assert sum(2, 3) == 5",)
    program = Program("def sum(a, b):\n    return a + b", tests, may_hide=frozenset({"sum"}))
    assert Sandbox().run(program).outcome == "passed"


@pytest.mark.parametrize(
    "code",
    [
        "import os\nwhile True:\n    os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import subprocess\nsubprocess._fork_exec(['true'])",
        "import os\nos.system('true')",
        "import _posixsubprocess",
        "import ctypes",
        "import socket\nsocket.socket()",
        "import urllib.request\nurllib.request.urlopen('http://localhost')",
        "import os, signal\nos.killpg(os.getpgid(os.getppid()), signal.SIGKILL)",
        "import os\nos.listdir('/')",
        "open('/etc/passwd').read()",
        "import os\nos.remove('/tmp/nothing')",
        "import shutil\nshutil.rmtree('..')",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
        "for number in range(1000):\n    open(f'{number}.txt', 'w').close()",
    ],
    ids=lambda code: code.splitlines()[-1][:40],
)
def test_what_reaches_outside_is_refused(code: str) -> None:
    found = run(f"{code}\n{GOOD}")
    assert (found.outcome, found.message.partition(":")[0]) == ("error", "PermissionError"), found


def test_patched_builtins_do_not_open_files_outside() -> None:
    patch = "import builtins\nbuiltins.isinstance = builtins.any = lambda *rest: True\n"
    assert run(f"{patch}open('/etc/passwd').read()\n{GOOD}").outcome == "error"


def test_files_in_the_empty_work_folder_are_allowed_and_gone_afterwards() -> None:
    code = "import os\nassert os.listdir() == []\nopen('a.txt', 'w').write('x')\nprint(os.getcwd())\n" + GOOD
    found = run(code)
    assert found.outcome == "passed"
    assert not Path(found.output.strip()).exists()


def test_nothing_outside_was_written(tmp_path: Path) -> None:
    target = tmp_path / "evil.txt"
    assert run(f"open({str(target)!r}, 'w').write('x')\n{GOOD}").outcome == "error"
    assert not target.exists()


def test_output_is_bounded_and_its_end_is_kept() -> None:
    found = run("print('begin')\nprint('x' * 5000 + 'end')\n" + GOOD)
    assert found.outcome == "passed"
    assert (len(found.output), found.output.rstrip()[-3:]) == (_sandbox.SHOWN_BYTES, "end")
    assert run("while True:\n    print('x' * 1000)").message.startswith("OSError")


def test_there_is_no_standard_input_and_no_environment() -> None:
    assert run("input()\n" + GOOD).message.startswith("EOFError")
    os.environ["CHAINFT_SECRET"] = "x"
    code = "import os\nassert 'CHAINFT_SECRET' not in os.environ\n" + GOOD
    try:
        assert run(code).outcome == "passed"
    finally:
        del os.environ["CHAINFT_SECRET"]


def test_threads_that_are_left_over_hold_nothing_up() -> None:
    begun = time.monotonic()
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
    assert run(code + GOOD, timeout_s=30).outcome == "passed"
    assert time.monotonic() - begun < 20


def test_check_is_called_with_the_entry_point() -> None:
    tests = ("def check(candidate):\n    assert candidate(1) == 2",)
    assert Sandbox().run(Program(GOOD, tests, "f")).outcome == "passed"
    assert Sandbox().run(Program("def f(x):\n    return 0", tests, "f")).outcome == "failed"
    missing = Sandbox().run(Program("def g(x):\n    return 2", tests, "f"))
    assert (missing.outcome, "does not define f" in missing.message) == ("error", True)
    own_check = "def check(candidate):\n    pass\ndef f(x):\n    return 0"
    assert Sandbox().run(Program(own_check, tests, "f")).outcome == "failed"


def test_orders_of_sets_are_the_same_each_time() -> None:
    code = "print(list({'red', 'green', 'blue', 'black', 'white'}))\n" + GOOD
    assert run(code).output == run(code).output


def test_equal_programs_run_once_and_results_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def noted(self: Sandbox, program: Program) -> Result:
        ran.append(program.code)
        return Result("passed" if program.code == "a" else "failed")

    monkeypatch.setattr(Sandbox, "run", noted)
    programs = [Program(code, ()) for code in ("a", "b", "a")]
    assert [one.outcome for one in Sandbox().run_all(programs)] == ["passed", "failed", "passed"]
    assert sorted(ran) == ["a", "b"]


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.fork()",
        "import os, signal\nos.killpg(os.getpgid(0), signal.SIGKILL)",
        "import socket\nsocket.socket()",
    ],
    ids=["fork", "killpg", "socket"],
)
def test_without_help_of_the_kernel_the_hook_refuses_alone(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sandbox, "_walls", lambda: ())
    assert run(f"{code}\n{GOOD}").message.startswith("PermissionError")
    assert run(GOOD).outcome == "passed"
    assert run("def f(x):\n    while True: pass").outcome == "timeout"


@pytest.mark.skipif("namespaces" not in guarantees(), reason="the system makes no namespaces for users")
def test_namespaces_have_no_network_and_no_other_process() -> None:
    """What the kernel refuses by itself, without the hook."""
    code = (
        "import os, socket\n"
        "try:\n    socket.create_connection(('192.0.2.1', 80), 2)\n"
        "except OSError as error:\n    print(error.errno)\n"
        f"try:\n    os.kill({os.getpid()}, 0)\n"
        "except ProcessLookupError:\n    print('alone')\n"
    )
    done = subprocess.run([*_sandbox._walls(), sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["101", "alone"]  # ENETUNREACH


@pytest.mark.skipif("landlock" not in guarantees(), reason="the kernel has no Landlock")
def test_landlock_refuses_files_without_the_hook(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("x", encoding="utf-8")
    folders = [str(_sandbox._INSIDE.parent), *_sandbox._python_folders()]
    code = (
        f"import sys\nsys.path.insert(0, {str(_sandbox._INSIDE.parent)!r})\nimport _inside_sandbox as one\n"
        f"one.landlock({folders!r}, [{str(inside)!r}])\n"
        f"open({str(inside / 'a.txt')!r}, 'w').write('x')\n"
        f"for mode in 'rw':\n    try:\n        open({str(outside / 'secret.txt')!r}, mode)\n"
        "    except PermissionError:\n        print(mode)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["r", "w"]
    assert (outside / "secret.txt").read_text(encoding="utf-8") == "x"
